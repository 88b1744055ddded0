"""A vocabulary's entries: what an attribute is, and how attributes are read from a user's TOML table.

Every fault is a BadInput that names the file and the entry.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from lookalike.captions.hearing import Phrases, heard_in, plural_of, words_of
from lookalike.errors import BadInput, unknown_name
from lookalike.images import shown

NOT_VISIBLE = "not_visible"
NOT_APPLICABLE = "not_applicable"

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_HEAD = ("name", "noun", "groups")  # the entries that are no attribute
_KEYS = (
    "question", "place", "applies", "most", "words", "plural", "second_of", "beside", "say", "hear", "only",
)  # fmt: skip
_PLACES = ("noun", "before", "with")


@dataclass(frozen=True, slots=True)
class Attribute:
    """One thing that a caption may tell.

    `say` has a caption's wordings of each value, the usual one first, `hear` further ones by which it is
    known, `only` the categories of a value that not all have. `second_of` names the attribute whose values
    this one shares: a second colour; `beside` are the words of details, which have that colour.
    """

    name: str
    question: str
    values: tuple[str, ...]  # () for free text
    applies: tuple[str, ...] = ()  # categories; () for all
    place: Literal["noun", "before", "with"] = "with"
    most: int = 1  # values at once
    words: int = 6  # of one phrase of free text, at most
    say: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)
    hear: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)
    only: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)
    plural: tuple[str, ...] = ()  # values that are several things: trousers
    second_of: str = ""
    beside: tuple[str, ...] = ()

    @property
    def several(self) -> bool:
        return self.most > 1

    def suits(self, category: str, value: str = "") -> bool:
        """Whether a category has this attribute, or can have this value of it; "" is any category."""
        allowed = self.only.get(value) or self.applies
        return not category or not allowed or category in allowed


def phrases_of(attributes: Sequence[Attribute]) -> Phrases:
    """What each phrase may mean. A plural means what the singular does, unless it is listed itself."""
    found: dict[tuple[str, ...], dict[tuple[str, str], None]] = {}
    for attribute in attributes:
        for value in () if attribute.second_of else attribute.values:
            for wording in (*attribute.say[value], *attribute.hear.get(value, ())):
                found.setdefault(words_of(wording), {})[attribute.name, value] = None
    plurals = {plural_of(words): meanings for words, meanings in found.items()}
    return {words: tuple(meanings) for words, meanings in (plurals | found).items()}


class Entries:
    """The table of one vocabulary's file."""

    def __init__(self, path: Path, table: Mapping[str, Any]) -> None:
        self._path, self._table = path, table
        self._categories: tuple[str, ...] = ()
        self._groups: dict[str, tuple[str, ...]] = {}

    def word(self, key: str, otherwise: str) -> str:
        """The text of an entry at the head of the file."""
        told = self._table.get(key, otherwise)
        if not isinstance(told, str) or not told.strip():
            raise self._fault(key, "not a word", f'write {key} = "{otherwise}"')
        return told.strip()

    def attributes(self) -> tuple[Attribute, ...]:
        """The file's attributes in their order, at least one."""
        tables = {name: self._checked(name) for name in self._table if name not in _HEAD}
        if not tables:
            raise self._fault("the file", "has no attribute", 'begin one: [colour], then question = "…?"')
        self._read_categories(tables)
        made: dict[str, Attribute] = {}
        for name, table in tables.items():
            made[name] = self._attribute(name, table, made)
        self._check_wordings(tuple(made.values()))
        return tuple(made.values())

    def _checked(self, name: str) -> Mapping[str, Any]:
        if not _NAME.fullmatch(name):
            raise self._fault(name, "no name for an attribute", "use lower-case letters, digits and _")
        table = self._section(name, self._table[name])
        self._known(name, table, "key", _KEYS)
        return table

    def _read_categories(self, tables: Mapping[str, Mapping[str, Any]]) -> None:
        nouns = [name for name, table in tables.items() if table.get("place") == "noun"]
        if len(nouns) > 1:
            raise self._fault(nouns[1], f'place is "noun", as that of {nouns[0]} is', "only one can be")
        for name in nouns:
            self._categories = tuple(self._wordings(name, tables[name], "say"))
            if not self._categories:
                raise self._fault(name, "is the noun and has no values", f"list them under [{name}.say]")
        for group, members in self._section("groups", self._table.get("groups", {})).items():
            self._groups[group] = self._expanded(f"groups.{group}", members)

    def _attribute(self, name: str, table: Mapping[str, Any], before: Mapping[str, Attribute]) -> Attribute:
        question = table.get("question")
        if not isinstance(question, str) or not question.strip():
            raise self._fault(name, "has no question", 'write question = "…?"')
        place = table.get("place", "with")
        self._known(f"{name}.place", (place,), "place", _PLACES)
        say, beside = self._said(name, table, before)
        hear, only = self._wordings(name, table, "hear"), self._wordings(name, table, "only")
        plural = self._words(f"{name}.plural", table.get("plural", []))
        for entry, values in ((f"{name}.hear", hear), (f"{name}.only", only), (f"{name}.plural", plural)):
            self._known(entry, values, "value", say)
        return Attribute(
            name=name,
            question=question.strip(),
            values=tuple(say),
            applies=self._expanded(f"{name}.applies", table.get("applies", [])),
            place=place,
            most=self._number(name, table, "most", 1),
            words=self._number(name, table, "words", 6),
            say=say,
            hear=hear,
            only={value: self._expanded(f"{name}.only.{value}", list(some)) for value, some in only.items()},
            plural=plural,
            second_of=table.get("second_of", ""),
            beside=beside,
        )

    def _said(
        self, name: str, table: Mapping[str, Any], before: Mapping[str, Attribute]
    ) -> tuple[Mapping[str, tuple[str, ...]], tuple[str, ...]]:
        """The wordings of its values; of a second attribute those of the first, and the words of details."""
        if "second_of" not in table:
            return self._wordings(name, table, "say"), ()
        first = table["second_of"]
        self._known(f"{name}.second_of", (first,), "attribute before it", before)
        beside = self._words(f"{name}.beside", table.get("beside", []))
        if not beside or any(len(words_of(word)) > 1 for word in beside):
            raise self._fault(
                f"{name}.beside", "not a list of single words", 'write it as ["details", "stripes"]'
            )
        return before[first].say, tuple(word.lower() for word in beside)

    def _check_wordings(self, attributes: Sequence[Attribute]) -> None:
        """BadInput where a caption's wording would be heard as something else."""
        phrases = phrases_of(attributes)
        for attribute in attributes:
            for value, wordings in () if attribute.second_of else attribute.say.items():
                for wording in wordings:
                    mentions = [each for read in heard_in(wording, phrases, ()) for each in read.mentions]
                    heard = [pair for mention in mentions for pair in mention.meanings]
                    if heard != [(attribute.name, value)]:
                        others = " and ".join(f"{name} {other!r}" for name, other in heard)
                        raise self._fault(
                            f"{attribute.name}.say.{value}",
                            f"{wording!r} would be heard as {others or 'nothing'}",
                            "say it in a way of its own; words that several values share belong under hear",
                        )

    def _wordings(self, name: str, table: Mapping[str, Any], key: str) -> dict[str, tuple[str, ...]]:
        """A section of lists of words; a value with an empty list has its name for a wording."""
        found = {}
        for value, told in self._section(f"{name}.{key}", table.get(key, {})).items():
            entry = f"{name}.{key}.{value}"
            if value in (NOT_VISIBLE, NOT_APPLICABLE) or not words_of(value):
                raise self._fault(entry, "cannot be the name of a value", "call it something else")
            found[value] = self._words(entry, told) or (value,)
        return found

    def _words(self, entry: str, told: Any) -> tuple[str, ...]:
        if not isinstance(told, list) or not all(isinstance(each, str) and words_of(each) for each in told):
            raise self._fault(entry, "not a list of words", 'write it as ["navy", "navy blue"]')
        return tuple(told)

    def _number(self, name: str, table: Mapping[str, Any], key: str, otherwise: int) -> int:
        told = table.get(key, otherwise)
        if type(told) is not int or told < 1:
            raise self._fault(f"{name}.{key}", "not a number from 1", f"write {key} = {otherwise}")
        return told

    def _section(self, entry: str, told: Any) -> Mapping[str, Any]:
        if not isinstance(told, dict):
            raise self._fault(entry, "not a section", f"begin it with [{entry}]")
        return told

    def _expanded(self, entry: str, told: Any) -> tuple[str, ...]:
        """Categories by their names and those of groups."""
        names = self._words(entry, told)
        self._known(entry, names, "category or group", (*self._categories, *self._groups))
        return tuple(dict.fromkeys(each for name in names for each in self._groups.get(name, (name,))))

    def _known(self, entry: str, names: Collection[Any], kind: str, known: Collection[str]) -> None:
        for name in names:
            if name not in known:
                unknown = unknown_name(kind, str(name), known)
                raise self._fault(entry, str(unknown), unknown.hint)

    def _fault(self, entry: str, what: str, hint: str) -> BadInput:
        return BadInput(f"{shown(self._path)}, {entry}: {what}", hint)
