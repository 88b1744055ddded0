"""What a model's reply is worth: the paper's trims, detectors of empty talk, JSON out of prose."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from lookalike.captions.chat import Status
from lookalike.errors import MissingExtra

LONGEST = 4_000  # characters of a usable reply; what the strategies ask for has less than half
_LOOP = 4  # words in a row that come back …
_LOOPED = 3  # … so often in one reply are a model that has lost its thread

_QUESTION = re.compile(r"\bquestion\s*:", re.IGNORECASE)
_ANSWER = re.compile(r"\banswer\s*:", re.IGNORECASE)
_QUOTED = re.compile(r"\"[^\"]*\"|“[^”]*”|«[^»]*»")  # what is written on a garment is no word of the model's
_CANNOT = r"(?:can(?:no|')t|cannot|could not|am unable to|'m unable to|unable to|(?:am|'m) not able to|won't)"
_META = re.compile(
    r"\bas an? (?:ai|artificial intelligence|(?:large )?language model|text[- ]based)\b"
    r"|\byour (?:message|prompt|input|question) (?:is|was|seems|appears)(?: to be)? (?:empty|blank)\b"
    r"|\b(?:no|don't see an?|do not see an?|without an?) (?:image|picture|photo)s? "
    r"(?:is |was |has been )?(?:here|provided|attached|uploaded|given|shared|included)\b"
    r"|\bplease (?:provide|upload|attach|share|send)\b[^.]{0,30}\b(?:image|picture|photo)"
    rf"|{_CANNOT} (?:directly |actually )?(?:see|view|access|open|process|load)(?: or \w+)? "
    r"(?:(?:the|an|any|your|this|that) )?(?:image|picture|photo)s?\b(?! clearly| of | in )",
    re.IGNORECASE,
)
_REFUSAL = re.compile(
    rf"{_CANNOT} (?:help|assist|comply|fulfil|continue|engage|do that|(?:answer|discuss) (?:that|this)"
    r"|provide (?:(?:a|any|that|this|the) )?(?:description|caption|information)"
    r"|describe (?:people|th(?:is|e) (?:image|picture|photo|person))|identify (?:people|th(?:is|e) person))\b"
    r"|\bI (?:must|have to) (?:decline|refuse)\b",
    re.IGNORECASE,
)


class Unusable(Exception):
    """A reply came, and nothing can be made of it: what is wrong in one word, and in a line."""

    def __init__(self, status: Status, why: str) -> None:
        super().__init__(f"{status}: {why}")
        self.status, self.why = status, why


def trimmed_question(raw: str) -> str:
    """One question on one line (ChatCaptioner, arXiv 2303.06594): what follows the last "Question:".

    An asker that answers itself is cut before "Answer:"; where nothing stands before it, what follows counts.
    """
    last = " ".join(_QUESTION.split(raw)[-1].split())
    before, *after = _ANSWER.split(last)
    return before.strip() or (after[0].strip() if after else "")


def trimmed_answer(raw: str) -> str:
    """One answer on one line: without its own "Answer:", and cut where the answerer begins to ask."""
    answer = _ANSWER.sub("", raw, count=1) if _ANSWER.match(raw.lstrip()) else raw
    return " ".join(_QUESTION.split(answer)[0].split())


def fault(text: str, finish: Literal["stop", "length", "filter"] = "stop") -> Status | None:
    """Why a reply cannot be used, None where it can.

    "empty"; "refused", by the model or by its server's filter; "meta", where it speaks of itself or of the
    message and not of the picture; "truncated"; and "invalid" where it is over-long, goes in circles or is
    mostly written in another script than the Latin one. What stands in quotation marks is never held against
    a reply. "I do not know" is an answer.
    """
    if finish == "filter":
        return "refused"
    if not re.search(r"\w", text):
        return "empty"
    opening = _QUOTED.sub(" ", text.replace("’", "'"))[:200]
    if _META.search(opening):
        return "meta"
    if _REFUSAL.search(opening):
        return "refused"
    if len(text) > LONGEST or _loops(text) or _foreign(text):
        return "invalid"
    return "truncated" if finish == "length" else None


def parsed(text: str, schema: Mapping[str, Any]) -> Any:
    """The first JSON object or list in a reply that follows the schema, with whatever prose around it.

    Unusable("invalid") says what is missing or wrong, in words that a model can be told.
    """
    try:
        from jsonschema import Draft202012Validator
        from jsonschema.exceptions import best_match
    except ImportError:
        raise MissingExtra("checking what a model replies", "captions") from None
    validator = Draft202012Validator(schema)
    wrong = "there is no JSON in the reply"
    for value in _values(text):
        error = best_match(validator.iter_errors(value))
        if error is None:
            return value
        wrong = f"{error.json_path}: {error.message}"[:300]
    raise Unusable("invalid", wrong)


def _values(text: str) -> Iterator[Any]:
    """The JSON objects and lists that a text holds, in their order, outermost ones only."""
    decoder = json.JSONDecoder(parse_constant=_no_constant)
    place, tries = 0, 0
    while (start := re.compile(r"[{\[]").search(text, place)) and tries < 20:  # a text may be all brackets
        tries += 1
        try:
            value, place = decoder.raw_decode(text, start.start())
            json.dumps(value, ensure_ascii=False).encode()  # a lone half of a surrogate pair is no text
        except (ValueError, RecursionError):
            place = start.end()
        else:
            yield value


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _loops(text: str) -> bool:
    words = re.findall(r"\w+", text.lower())
    runs = Counter(zip(*(words[start:] for start in range(_LOOP)), strict=False))
    return max(runs.values(), default=0) >= _LOOPED


def _foreign(text: str) -> bool:
    letters = [letter for letter in text if letter.isalpha()]
    return sum(letter > "ɏ" for letter in letters) * 2 > len(letters)  # U+024F ends the Latin blocks
