"""What prose names: the phrases of a vocabulary found in English text, and whether the text denies them."""

from __future__ import annotations

import re
from bisect import bisect
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from lookalike.words import sentences

Meanings = tuple[tuple[str, str], ...]  # (attribute, value): all that a phrase may stand for
Phrases = Mapping[tuple[str, ...], Meanings]

_TOKENS = re.compile(r"[^\W\d_]-\w+|\w+(?:'\w+)*|[,;:.!?()]")  # "v-neck" is one word, "knee-length" two
_ARTICLE = re.compile(r"(?:a|an|the) ")
_PUNCTUATION = frozenset(",;:.!?()")
_CLAUSE_ENDS = _PUNCTUATION | {"and", "with", "but", "featuring", "while", "plus"}
_VERBS = frozenset(("it", "its", "they", "there", "has", "have", "is", "are", "with", "features", "comes"))
_STARTS = _VERBS | {"a", "an", "the"}  # after an "and", of another statement
_AFTER_DETAILS = frozenset((
    "and", "or", "on", "in", "at", "along", "down", "across", "with", "over", "all", "throughout", "around",
    "that", "for", "but", "to", "near", "of", "is", "are", "cover", "covers", "run", "runs", "running",
))  # fmt: skip
_BE = frozenset(("is", "are", "was", "were", "be"))
_TURNS = frozenset(("but", "while", "though", "although", "however"))
_DENIALS = frozenset((
    "not", "cannot", "never", "isn't", "aren't", "doesn't", "don't", "can't", "hasn't", "haven't", "wasn't",
    "weren't",
))  # fmt: skip
_FORWARD = _DENIALS | {
    "no", "without", "neither", "nor", "lacks", "lack", "lacking", "unclear", "unsure", "whether", "might",
    "may", "possibly", "perhaps", "maybe",
}  # fmt: skip
_SEEN = frozenset((
    "visible", "seen", "shown", "clear", "discernible", "present", "apparent", "identifiable", "determined",
))  # fmt: skip
_UNSEEN = frozenset(("hidden", "obscured", "absent", "missing", "unclear", "invisible"))


@dataclass(frozen=True, slots=True)
class Mention:
    """One phrase in a text: its clause, what it may mean, whether it is denied or doubted there."""

    clause: str
    meanings: Meanings
    denied: bool
    detail: bool  # a word beside it says that it is about a detail: "white" in "with white stripes"


@dataclass(frozen=True, slots=True)
class Sentence:
    text: str
    mentions: tuple[Mention, ...]
    denies: bool  # or doubts, or says what cannot be seen


@dataclass(frozen=True, slots=True)
class _Word:
    text: str
    start: int
    end: int


def words_of(text: str) -> tuple[str, ...]:
    """A wording as it is looked for: lower case, without its article. ("V-neck" is one word.)"""
    plain = _plain(text).strip()
    return tuple(_TOKENS.findall(_ARTICLE.sub("", plain, count=1) if _ARTICLE.match(plain) else plain))


def plural_of(words: tuple[str, ...]) -> tuple[str, ...]:
    """The same wording of several things."""
    *first, last = words
    return (*first, last + ("es" if last.endswith(("s", "x", "ch", "sh")) else "s"))


def heard_in(text: str, phrases: Phrases, details: Collection[str]) -> Iterator[Sentence]:
    """The sentences of a text with the phrases found in each: from the left, the longest first.

    `details` are the words beside which a colour is that of a detail.
    """
    longest = max(map(len, phrases), default=0)
    for sentence in sentences(text):
        yield _read(sentence.lstrip("-*•#> "), phrases, longest, details)


def _plain(text: str) -> str:
    return text.lower().replace("’", "'")


def _read(text: str, phrases: Phrases, longest: int, details: Collection[str]) -> Sentence:
    # lower() may change a text's length ("İ"); then clauses are cut from the lower text
    source = text if len(_plain(text)) == len(text) else _plain(text)
    words = [_Word(found[0], found.start(), found.end()) for found in _TOKENS.finditer(_plain(text))]
    tokens = tuple(word.text for word in words)
    spans = list(_spans(tokens, phrases, longest))
    used = {place for start, end in spans for place in range(start, end)}
    used.update(_joints(tokens, spans, phrases))
    denied = _denied(tokens, used)
    ends = [at for at, token in enumerate(tokens) if token in _CLAUSE_ENDS and at not in used]
    mentions = []
    for start, end in spans:
        after = bisect(ends, start)
        first = ends[after - 1] + 1 if after else 0
        last = ends[after] if after < len(ends) else len(tokens)
        mentions.append(
            Mention(
                clause=source[words[first].start : words[last - 1].end],
                meanings=phrases[tokens[start:end]],
                denied=any(place in denied for place in range(start, end)),
                detail=_is_detail(tokens, start, end, details),
            )
        )
    return Sentence(text, tuple(mentions), bool(denied))


def _spans(tokens: tuple[str, ...], phrases: Phrases, longest: int) -> Iterator[tuple[int, int]]:
    start = 0
    while start < len(tokens):
        reach = min(longest, len(tokens) - start)
        length = next((n for n in range(reach, 0, -1) if tokens[start : start + n] in phrases), 0)
        if length:
            yield start, start + length
        start += max(length, 1)


def _joints(tokens: tuple[str, ...], spans: Sequence[tuple[int, int]], phrases: Phrases) -> Iterator[int]:
    """Where an "and" joins two values of one attribute, "black and white": a clause does not end there."""
    for (start, end), (next_start, next_end) in pairwise(spans):
        names = [
            {name for name, _ in phrases[tokens[a:b]]} for a, b in ((start, end), (next_start, next_end))
        ]
        if tokens[end:next_start] == ("and",) and names[0] & names[1]:
            yield end


def _denied(tokens: tuple[str, ...], used: Collection[int]) -> set[int]:
    """Places of the words that a sentence denies, doubts or calls unseen.

    A denial goes on to the next statement; it passes commas with an "or" still to come: "no buttons, zips or
    pockets". What is unseen goes back to where its statement begins.
    """
    denied: set[int] = set()
    chained = _chained(tokens)
    denying = spoken = False  # `spoken`: a verb came before
    begins = 0
    for place, token in enumerate(tokens):
        if _turns(tokens, place):
            denying = denying and place in chained
            # "it has a hood and the zip is not visible", but "the hood and the zip are not visible"
            if token != "and" or spoken:
                begins = place + 1
        elif token == "with":
            denying = False
        spoken = spoken or token in _VERBS
        if place not in used:  # "no pattern" is a phrase of its own
            following = tokens[place + 1 : place + 3]
            unseen = token in _UNSEEN and place > 0 and tokens[place - 1] in _BE
            if unseen or (token in _DENIALS and not _SEEN.isdisjoint(following)):
                denied.update(range(begins, place))
                begins = place
            if unseen or (token in _FORWARD and following[:1] != ("only",)):
                denying = True
        if denying:
            denied.add(place)
    return denied


def _chained(tokens: tuple[str, ...]) -> set[int]:
    """Places of commas with an "or" still to come in the same statement."""
    found: set[int] = set()
    coming = False
    for place in range(len(tokens) - 1, -1, -1):
        if tokens[place] == ",":
            if coming:
                found.add(place)
        elif _turns(tokens, place):
            coming = False
        coming = coming or tokens[place] in ("or", "nor")
    return found


def _turns(tokens: tuple[str, ...], at: int) -> bool:
    """Whether a new statement begins after this word."""
    if tokens[at] == "and":
        return at + 1 < len(tokens) and tokens[at + 1] in _STARTS
    return tokens[at] in _PUNCTUATION or tokens[at] in _TURNS


def _is_detail(tokens: tuple[str, ...], start: int, end: int, details: Collection[str]) -> bool:
    """Whether it belongs to a detail: "white stripes", "details in white", "the print is a red heart"."""
    for at in range(end, min(end + 3, len(tokens))):
        if tokens[at] in _CLAUSE_ENDS:
            break
        if tokens[at] in details and (
            at + 1 == len(tokens) or tokens[at + 1] in _PUNCTUATION or tokens[at + 1] in _AFTER_DETAILS
        ):
            return True
    before = tokens[max(0, start - 4) : start]
    while before and before[-1] in ("a", "an", "the", "in", *_BE):
        before = before[:-1]
        if before and before[-1] in details:
            return True
    return False
