"""How a caption says what it claims: one phrase or sentence of attributes' wordings."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lookalike.captions.entries import Attribute

_LONGEST = 40  # words


def said(attribute: Attribute, value: str, template: int = 0) -> str:
    """A wording of a value; the usual one for 0. Free text is said as it is."""
    wordings = attribute.say.get(value, (value,))
    return wordings[template % len(wordings)]


def phrased(told: Sequence[tuple[Attribute, str]], noun: str, template: int) -> str:
    """What a caption says, in the order of `told`; without the last where 40 words do not hold them.

    `noun` is what the thing is called where none of them says it.
    """
    for count in range(len(told), 0, -1):
        text = _phrase(told[:count], noun, template)
        if len(text.split()) <= _LONGEST:
            return text
    return ""


def _phrase(told: Sequence[tuple[Attribute, str]], noun: str, template: int) -> str:
    form = FORMS[template % len(FORMS)]
    names = {attribute.name for attribute, _ in told}
    before: dict[str, str] = {}  # by attribute: "navy", "navy and white"
    features: list[str] = []
    several = False
    for attribute, value in told:
        wording = said(attribute, value, template)
        joins = attribute.second_of if form is not _sentence else ""  # there it is "with white details"
        if joins in names:
            before[joins] += f" and {wording}"
        elif attribute.second_of:
            features.append(f"{wording} {attribute.beside[0]}")
        elif attribute.place == "noun":
            noun, several = wording, value in attribute.plural
        elif attribute.place == "before":
            before[attribute.name] = " and ".join(filter(None, [before.get(attribute.name), wording]))
        else:
            features.append(wording)
    return form(list(before.values()), noun, features, several)


def _plain(before: list[str], noun: str, features: list[str], several: bool) -> str:
    """For instance "navy striped top with a hood and a zip"."""
    return " ".join([*before, noun]) + (f" with {_listing(features)}" if features else "")


def _sentence(before: list[str], noun: str, features: list[str], several: bool) -> str:
    """For instance "A navy striped top with a hood and a zip."."""
    phrase = _plain(before, noun, features, several)
    return f"{_article(phrase, several).capitalize()} {phrase}."


def _predicate(before: list[str], noun: str, features: list[str], several: bool) -> str:
    """For instance "This top is navy and striped and has a hood and a zip."."""
    this, is_, has = ("These", "are", "have") if several else ("This", "is", "has")
    told = [f"{is_} {_listing(before)}"] if before else []
    told += [f"{has} {_listing(features)}"] if features else []
    if not told:
        return f"{this} {is_} {_article(noun, several)} {noun}."
    return f"{this} {noun} {' and '.join(told)}."


def _apposition(before: list[str], noun: str, features: list[str], several: bool) -> str:
    """For instance "top, navy, striped, with a hood and a zip"."""
    return ", ".join([noun, *before, *([f"with {_listing(features)}"] if features else [])])


FORMS: tuple[Callable[[list[str], str, list[str], bool], str], ...] = (
    _plain,
    _sentence,
    _predicate,
    _apposition,
)


def _article(phrase: str, several: bool) -> str:
    return "a pair of" if several else "an" if phrase[0] in "aeioAEIO" else "a"


def _listing(parts: Sequence[str]) -> str:
    return " and ".join([*filter(None, [", ".join(parts[:-1])]), *parts[-1:]])
