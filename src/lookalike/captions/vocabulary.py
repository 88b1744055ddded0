"""Vocabularies: the closed set of things that captions of one trade say, how they say it, how it is heard.

A vocabulary is a TOML file that a user can write; `fashion.toml` explains the format at its head.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from lookalike.captions.entries import NOT_APPLICABLE, NOT_VISIBLE, Attribute, Entries, phrases_of
from lookalike.captions.hearing import Mention, heard_in
from lookalike.captions.phrasing import phrased, said
from lookalike.errors import BadInput, unknown_name
from lookalike.images import shown
from lookalike.values import Claim

__all__ = ["NOT_APPLICABLE", "NOT_VISIBLE", "Attribute", "Vocabulary"]

_SHIPPED = ("fashion", "object")
_LETTERS = 12  # of a word of free text, with its space


class Vocabulary:
    """What can be said of things of one trade. `version` changes with the file's content."""

    def __init__(
        self, name: str, version: str, attributes: Sequence[Attribute], noun: str = "object"
    ) -> None:
        self.name, self.version, self.attributes, self._noun = name, version, tuple(attributes), noun
        self._by_name = {attribute.name: attribute for attribute in self.attributes}
        self._category = next((each.name for each in self.attributes if each.place == "noun"), "")
        self._phrases = phrases_of(self.attributes)
        self._details = frozenset(word for each in self.attributes for word in each.beside)

    @classmethod
    def open(cls, named: str | Path) -> Vocabulary:
        """The vocabulary "fashion" or "object", or a user's FILE.toml; BadInput names file and entry."""
        path = Path(named)
        if str(named) in _SHIPPED:
            path = Path(__file__).with_name(f"{named}.toml")
        elif path.suffix != ".toml":
            raise unknown_name("vocabulary", str(named), (*_SHIPPED, "FILE.toml"))
        try:
            content = path.read_bytes()
            table = tomllib.loads(content.decode())
        except OSError as error:
            raise BadInput(
                f"{shown(path)}: cannot be read: {error.strerror}", "give the path of a vocabulary, FILE.toml"
            ) from None
        except ValueError as error:  # not UTF-8, or not TOML
            raise BadInput(f"{shown(path)}: not a TOML file: {error}", "see https://toml.io") from None
        entries = Entries(path, table)
        name, noun = entries.word("name", path.stem), entries.word("noun", "object")
        return cls(name, hashlib.sha256(content).hexdigest()[:8], entries.attributes(), noun)

    def attribute(self, name: str) -> Attribute:
        """The attribute of this name; BadInput where there is none."""
        if name not in self._by_name:
            raise unknown_name("attribute", name, self._by_name)
        return self._by_name[name]

    def schema(self, names: Collection[str] | None = None) -> dict[str, Any]:
        """The JSON schema of a reply that tells the attributes of these names, None for all of them.

        Attributes come in the vocabulary's order, free text last.
        """
        asked = self.attributes if names is None else [self.attribute(name) for name in names]
        order = sorted(asked, key=lambda each: (not each.values, self.attributes.index(each)))
        return {
            "type": "object",
            "properties": {attribute.name: _schema(attribute) for attribute in order},
            "required": [attribute.name for attribute in order],
            "additionalProperties": False,
        }

    def values(self, reply: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
        """What a reply that passed the schema tells, by attribute, in the vocabulary's order.

        Without what is not visible, and without what does not apply to the category that it names, whatever
        it says there. Of free text, phrases with too many words are left out.
        """
        category = self._category_of(reply)
        found: dict[str, tuple[str, ...]] = {}
        for attribute in self.attributes:
            told = _told(attribute, reply) if attribute.suits(category) else ()
            if told and told != found.get(attribute.second_of):
                found[attribute.name] = told
        return found

    def abstained(self, reply: Mapping[str, Any]) -> dict[str, str]:
        """What is NOT_VISIBLE in a reply, or NOT_APPLICABLE, there or by the rule table; by attribute."""
        category = self._category_of(reply)
        found: dict[str, str] = {}
        for attribute in self.attributes:
            said_so = [each for each in _phrases(attribute, reply) if each in (NOT_VISIBLE, NOT_APPLICABLE)]
            if attribute.name in reply and not attribute.suits(category):
                found[attribute.name] = NOT_APPLICABLE
            elif said_so and not _told(attribute, reply):
                found[attribute.name] = said_so[0]
        return found

    def lacking(self, reply: Mapping[str, Any]) -> list[str]:
        """What applies and is missing in a reply or not visible; free text never lacks."""
        told, abstained, category = self.values(reply), self.abstained(reply), self._category_of(reply)
        return [
            each.name
            for each in self.attributes
            if each.values and each.suits(category)
            if each.name not in told and abstained.get(each.name) != NOT_APPLICABLE
        ]

    def claims(self, values: Mapping[str, Sequence[str]]) -> tuple[Claim, ...]:
        """A claim for each value, in the vocabulary's order; its text is how a caption says it."""
        return tuple(
            Claim(said(attribute, value), attribute.name, value)
            for attribute in self.attributes
            for value in values.get(attribute.name, ())
        )

    def rendered(self, claims: Sequence[Claim], template: int = 0) -> str:
        """A phrase or sentence of what these claims say and nothing else, 40 words at most; "" without any.

        Templates from 0 give other forms and wordings. Claims without an attribute are left out, and so are
        the last in the vocabulary's order where the words would be too many.
        """
        told = dict.fromkeys((claim.attribute, claim.value) for claim in claims)
        known = [(each, value) for each in self.attributes for name, value in told if name == each.name]
        return phrased(known, self._noun, template)

    def heard(self, text: str) -> tuple[Claim, ...]:
        """English prose cut into claims, in its order; each text is the clause that makes the claim.

        A sentence that names nothing of the vocabulary is a claim without an attribute. What is denied,
        doubted or called unseen is no claim. Where words fit several categories ("dress") the other values
        decide, or nothing is claimed.
        """
        read = list(heard_in(text, self._phrases, self._details))
        mentions = [mention for sentence in read for mention in sentence.mentions if not mention.denied]
        categories = self._categories(mentions)
        order = self._order(mentions)
        claims: dict[tuple[str, str], Claim] = {}
        for sentence in read:
            if not sentence.mentions and not sentence.denies:
                claims.setdefault(("", sentence.text), Claim(sentence.text))
            for mention in sentence.mentions:
                for pair in () if mention.denied else self._settled(mention, categories):
                    name, value = order.get(pair, pair[0]), pair[1]
                    if name:
                        claims.setdefault((name, value), Claim(mention.clause, name, value))
        return tuple(claims.values())

    def _category_of(self, reply: Mapping[str, Any]) -> str:
        told = _told(self._by_name[self._category], reply) if self._category else ()
        return told[0] if told else ""

    def _suits(self, name: str, value: str, category: str) -> bool:
        if name == self._category:
            return category in ("", value)
        return self._by_name[name].suits(category, value)

    def _categories(self, mentions: Sequence[Mention]) -> set[str]:
        """What the first thing named may be, narrowed by what else is said; {""} where nothing is named."""
        possible: set[str] = set()
        for mention in mentions:
            named = {value for name, value in mention.meanings if name == self._category}
            possible = possible & named or possible or named
        for mention in mentions:
            for name, value in mention.meanings:
                if name != self._category:
                    possible = {each for each in possible if self._suits(name, value, each)} or possible
        return possible or {""}

    def _settled(self, mention: Mention, categories: Collection[str]) -> list[tuple[str, str]]:
        """The meanings of a mention that these categories can have, where an attribute has one left."""
        suiting = [pair for pair in mention.meanings if any(self._suits(*pair, each) for each in categories)]
        return [pair for pair in suiting if [name for name, _ in suiting].count(pair[0]) == 1]

    def _order(self, mentions: Sequence[Mention]) -> dict[tuple[str, str], str]:
        """Which (attribute, value) belongs to which attribute where one has a second.

        The first is what is mentioned first of those that are not a detail's; "" is where a third goes.
        """
        found: dict[tuple[str, str], str] = {}
        for second in self.attributes:
            named = [
                (pair, mention.detail)
                for mention in mentions
                for pair in mention.meanings
                if pair[0] == second.second_of
            ]
            pairs = list(dict.fromkeys(pair for pair, _ in named))
            main = [pair for pair, detail in named if not detail] or (pairs if len(pairs) > 1 else [])
            others = [pair for pair in pairs if pair not in main[:1]]
            found |= dict.fromkeys(pairs, "")
            found |= dict.fromkeys(main[:1], second.second_of) | dict.fromkeys(others[:1], second.name)
        return found


def _phrases(attribute: Attribute, reply: Mapping[str, Any]) -> list[str]:
    """All that a reply has at one attribute, on one line each, in characters that print."""
    told = reply.get(attribute.name, ())
    phrases = [told] if isinstance(told, str) else told
    return [" ".join("".join(filter(str.isprintable, " ".join(each.split()))).split()) for each in phrases]


def _told(attribute: Attribute, reply: Mapping[str, Any]) -> tuple[str, ...]:
    """What a reply says of one attribute, once each, without the marks of abstention."""
    seen = dict.fromkeys(_phrases(attribute, reply))
    if attribute.values:
        told = [each for each in seen if each in attribute.values]
    else:
        told = [each for each in seen if each not in ("", NOT_VISIBLE, NOT_APPLICABLE)]
        told = [each for each in told if len(each.split()) <= attribute.words]
    return tuple(told[: attribute.most])


def _schema(attribute: Attribute) -> dict[str, Any]:
    one: dict[str, Any] = {"type": "string"}
    if attribute.values:
        one["enum"] = [*attribute.values, NOT_VISIBLE, NOT_APPLICABLE]
    else:
        one["maxLength"] = attribute.words * _LETTERS
    if attribute.several:
        one = {"type": "array", "items": one, "maxItems": attribute.most}
    return {**one, "description": attribute.question}
