"""A stand-in for the models of a captioner: it has read the labels of a data set and answers by them.

It really looks at what it is sent. A picture is decoded and sought among the regions of the data set; what it
does not find it says nothing about, so a wrong crop, a wrong turn or wrong colours show at once. Whatever is
measured with it is about protocol and bookkeeping, never about how well a model sees.

    python -m lookalike.testing.oracle DATASET --lie 0.2 --port 8000
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import itertools
import json
import os
import re
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np
from PIL import Image

from lookalike import images
from lookalike.captions.vocabulary import NOT_APPLICABLE, NOT_VISIBLE, Vocabulary
from lookalike.datasets import Labelled, open_dataset
from lookalike.errors import BadPicture, LookalikeError
from lookalike.testing.loopback import Fault, Loopback, Say, schema_of, text_of
from lookalike.values import Floats, Pixels, Region

_UNKNOWN = "I do not know."
_UNSURE = "I am not sure."
_SIDE = 16  # of a thumbnail
# How far a thumbnail may be from the one that it is, in grey levels (root mean square). Of drawn garments
# posted as JPEG it was 2.7 at most (small ones; 0.4 in the median), between any two regions 11.9 at least.
_FARTHEST = 5.0
_ANY_SHAPE = images.Limits(bytes=25_000_000, pixels=50_000_000, shortest=1, aspect=np.inf)
_DESCRIBED = ("colour", "category", "pattern", "fit")  # what a description tells
_EMPTY: Mapping[str, Any] = {"string": "", "array": [], "integer": 0, "number": 0, "boolean": False}
_QUESTIONS = re.compile(r"^\s*question\s*:(.*)$", re.IGNORECASE | re.MULTILINE)
_ANSWERS = re.compile(r"^\s*answer\s*:(.*\S.*)$", re.IGNORECASE | re.MULTILINE)
_ASKS = re.compile(r"\b(?:ask|question)\b", re.IGNORECASE)
_IGNORANCE = re.compile(r"\b(?:not (?:know|sure|visible|clear)|unsure|don't know|cannot)\b", re.IGNORECASE)

Messages = Sequence[Mapping[str, Any]]
Fill = Callable[[str, Mapping[str, Any]], Any]  # a field's name and schema -> its value

_WORDINGS = {  # how a question may name an attribute; of several the one named first counts
    "sleeve": r"(?:how long are|length of) (?:the|its) sleeves?|sleeves?|sleeved",
    "second_colour": r"(?:second|secondary|other|another|further|additional|accent) colou?rs?",
    "colour": r"colou?rs?|coloured|colored|hue",
    "pattern": r"patterns?|patterned",
    "print": r"prints?|printed|motifs?|logo|graphic|lettering",
    "neckline": r"necklines?|neck|collar",
    "length": r"length|how long|how far down",
    "fit": r"fits?|fitted|silhouette|cut|how (?:tight|loose)",
    "pockets": r"pockets?",
    "closure": r"closures?|close[sd]?|fasten\w*|buttons?|buttoned|zips?|zipper|done up",
    "trim": r"trims?|trimmed|trimming|edges?|edging",
    "fabric": r"fabrics?|material|textile|cloth|made (?:of|from)",
    "category": r"category|(?:kind|type|sort|piece|article) of (?:garment|clothing|item|product|object)"
    r"|(?:what|which) (?:garment|item|product|object)|what is (?:this|it|shown|worn)\b(?! made)",
}


class Oracle:
    """What `Loopback` may serve: takes the body of a chat completion, answers as the model that it is for.

    With a picture it is the model that sees: it fills a JSON schema, answers a question about an attribute or
    describes the garment. Without, it is the one that asks: for the attribute that no question was about yet,
    or, told to sum up, it joins the answers given.

    `abstain` is the share of attributes that it says it cannot see, `lie` the share of the others on which it
    says something wrong, `error` the share of requests that fail with status 500. What it says depends on
    `seed`, region, attribute and the body's seed alone: asked again in other words it says the same, and
    another seed in the body is another draw. Whether a request fails is drawn for each anew.

    BadPicture where a picture of the data set cannot be read.
    """

    def __init__(
        self,
        regions: Iterable[Labelled],
        lie: float = 0.0,
        abstain: float = 0.0,
        error: float = 0.0,
        seed: int = 0,
    ) -> None:
        self._regions = list(regions)
        self._lie, self._abstain, self._error, self._seed = lie, abstain, error, seed
        self._requests = itertools.count()
        self._thumbnails = _thumbnails(self._regions)  # (N, V)
        self._lengths = np.einsum("nv,nv->n", self._thumbnails, self._thumbnails)
        self._truths = [_truth(region) for region in self._regions]
        self._labelled = {name for truth in self._truths for name in truth}
        self._vocabulary = Vocabulary.open("fashion")
        self._questions = {each.name: each.question for each in self._vocabulary.attributes}
        self._values = {each.name: each.values for each in self._vocabulary.attributes}
        for name in sorted(self._labelled):
            seen = {truth[name] for truth in self._truths if name in truth}
            known = self._values.get(name, ())
            self._values[name] = (*known, *sorted(seen.difference(known)))
        self._words = {
            name: re.compile(rf"\b(?:{_WORDINGS.get(name, _spaced(name))})\b", re.IGNORECASE)
            for name in self._values
        }

    def __call__(self, body: Mapping[str, Any]) -> Say | Fault:
        if self._drawn("request", next(self._requests)) < self._error:
            return Fault("status", 500)
        schema, messages = schema_of(body), body["messages"]
        pictures = _pictures(messages)
        fill: Fill
        if pictures:
            place = self.recognised(pictures[-1])
            question, sample = _question(messages), int(body.get("seed") or 0)
            if schema is None:
                return Say(self._answer(place, question, sample))
            fill = partial(self._seen, place, question, sample)
        elif schema is None:
            return Say(self._written(messages))
        else:
            fill = partial(self._asked, messages)
        return Say(json.dumps(_filled(schema, "", fill)))

    def recognised(self, url: str) -> int | None:
        """Which of the regions a data URL shows, from 0; None where it is no picture, or of none of them."""
        head, _, content = url.partition(",")
        if not (head.startswith("data:image/") and head.endswith(";base64") and self._regions):
            return None
        try:
            data = base64.b64decode(content, validate=True)
            shown = _thumbnail(images.decode(data, limits=_ANY_SHAPE).pixels)
        except (BadPicture, ValueError):
            return None
        squares = self._lengths - 2 * (self._thumbnails @ shown) + shown @ shown  # (N,)
        place = int(squares.argmin())
        return place if squares[place] <= _FARTHEST**2 else None

    def _answer(self, place: int | None, question: str, sample: int) -> str:
        """A sentence about the attribute that a question names, or some about the whole garment."""
        if place is None:
            return _UNKNOWN
        about = self._about(question)
        if about == _DESCRIBED:
            return self._description(place, sample)
        if not about or about[0] not in self._labelled:
            return _UNKNOWN
        said = self._said(place, about[0], sample)
        if said == NOT_VISIBLE:
            return _UNSURE
        return f"It has no {_spaced(about[0])}." if said == NOT_APPLICABLE else self._sentence(about[0], said)

    def _description(self, place: int, sample: int) -> str:
        seen = {name: self._said(place, name, sample) for name in _DESCRIBED}
        seen = {name: said for name, said in seen.items() if said not in (NOT_VISIBLE, NOT_APPLICABLE)}
        words = [self._worded(name, seen[name]) for name in ("colour", "category") if name in seen]
        garment = " ".join(words if "category" in seen else [*words, "garment"])
        sentences = [f"The picture shows {_with_article(garment)}."]
        sentences += [self._sentence(name, seen[name]) for name in ("pattern", "fit") if name in seen]
        return " ".join(sentences)

    def _sentence(self, attribute: str, value: str) -> str:
        words = self._worded(attribute, value)
        if attribute == "category":
            return f"It is {_with_article(words)}."
        if attribute in ("colour", "second_colour", "pattern", "fit", "length", "fabric"):
            return f"{'Its details are' if attribute == 'second_colour' else 'It is'} {words}."
        return f"It has {words}."

    def _worded(self, attribute: str, value: str) -> str:
        """A value as a caption says it; one that the vocabulary does not know, as it is."""
        claims = self._vocabulary.claims({attribute: [value]})
        return claims[0].text if claims else value

    def _seen(
        self, place: int | None, question: str, sample: int, name: str, schema: Mapping[str, Any]
    ) -> Any:
        """The value of one field of a schema."""
        if name in self._values:
            attribute: str | None = name
        else:
            attribute = next(iter(self._about(schema.get("description", "")) + self._about(question)), None)
        if schema.get("type") == "array":
            allowed = schema.get("items", {}).get("enum", ())
            said = self._said(place, attribute, sample, allowed)
            return [each for each in allowed if _plain(each) == _plain(said)]
        allowed = schema.get("enum", ())
        if "ok" in allowed:  # the status of an answer, not the answer
            if self._answer(place, question, sample) in (_UNKNOWN, _UNSURE):
                return _one_of(allowed, NOT_VISIBLE, "unsure")
            return "ok"
        if allowed:
            return _one_of(
                allowed, self._said(place, attribute, sample, allowed), NOT_VISIBLE, NOT_APPLICABLE
            )
        if name in ("answer", "description", "caption"):
            return self._answer(place, question, sample)
        return _EMPTY.get(schema.get("type", "string"))

    def _said(
        self, place: int | None, attribute: str | None, sample: int, allowed: Sequence[str] = ()
    ) -> str:
        """What it claims: a value, "not_visible" or "not_applicable". A lie is another one of the allowed."""
        if place is None or attribute not in self._labelled:
            return NOT_VISIBLE
        region = self._regions[place]
        drawn = partial(self._drawn, region.group, region.id, attribute, sample)
        if drawn("abstains") < self._abstain:
            return NOT_VISIBLE
        true = self._truths[place].get(attribute, NOT_APPLICABLE)
        if drawn("lies") >= self._lie:
            return true
        no_lies = {_plain(true), _plain(NOT_VISIBLE), _plain(NOT_APPLICABLE)}
        others = [value for value in allowed or self._values[attribute] if _plain(value) not in no_lies]
        return max(others, key=partial(drawn, "says"), default=NOT_VISIBLE)

    def _written(self, messages: Messages) -> str:
        last = _instruction(messages)
        if re.search(r"\bsummar|\bsum up\b", last, re.IGNORECASE) or not _ASKS.search(last):
            return " ".join(_answers(messages)) or _UNKNOWN
        unasked = self._unasked(messages)
        # the longest first: "second colour" names no colour
        words = sorted(map(_spaced, self._questions), key=len, reverse=True)
        named = re.findall(rf"\b(?:{'|'.join(words)})\b", last.lower())
        unasked = [name for name in unasked if _spaced(name) in named] or unasked
        return self._questions[unasked[0]] if unasked else "What else is there to see?"

    def _asked(self, messages: Messages, name: str, schema: Mapping[str, Any]) -> Any:
        """The value of one field of a schema: a question, what it is about, or a list of such."""
        if name in ("summary", "caption"):
            return " ".join(_answers(messages))
        unasked = self._unasked(messages)
        if schema.get("type") != "array":
            return self._asking(unasked[0] if unasked else "", name, schema)
        allowed = schema["items"].get("properties", {}).get("attribute", {}).get("enum", unasked)
        names = [each for each in allowed if each in unasked][: schema.get("maxItems", 3)]
        return [_filled(schema["items"], name, partial(self._asking, each)) for each in names]

    def _asking(self, attribute: str, name: str, schema: Mapping[str, Any]) -> Any:
        if "enum" in schema:
            return _one_of(schema["enum"], attribute)
        if name == "attribute":
            return attribute
        return self._questions.get(attribute, _EMPTY.get(schema.get("type", "string")))

    def _unasked(self, messages: Messages) -> list[str]:
        """What no question was about yet, in the vocabulary's order."""
        talk = [text_of(message) for message in messages if message["role"] == "assistant"]
        talk += [line for message in messages for line in _QUESTIONS.findall(text_of(message))]
        asked = {name for question in talk for name in self._about(question)}
        return [name for name in self._questions if name in self._labelled and name not in asked]

    def _about(self, text: str) -> tuple[str, ...]:
        """The attribute that a question names first; `_DESCRIBED` where it is about the whole; else ()."""
        for name, question in self._questions.items():
            if _plain(question) in _plain(text):
                return (name,)
        found = [(match, name) for name, words in self._words.items() if (match := words.search(text))]
        if len(found) > 2 or re.search(r"\bdescri(?:be|ption)\b|\bin detail\b", text, re.IGNORECASE):
            return _DESCRIBED
        found.sort(key=lambda each: (each[0].start(), -each[0].end()))
        return tuple(name for _, name in found[:1])

    def _drawn(self, *what: object) -> float:
        """A number from 0 up to 1, always the same for the same things."""
        digest = hashlib.blake2b(repr((self._seed, *what)).encode(), digest_size=7).digest()
        return int.from_bytes(digest) / 2**56


def _truth(region: Labelled) -> dict[str, str]:
    """What is true of a region, by the vocabulary's names."""
    told = {"category": region.category, **region.attributes}
    return {name.replace(" ", "_"): value for name, value in told.items() if value}


def _thumbnails(regions: Sequence[Labelled]) -> Floats:
    """(N, V), in the order of the regions; each picture is read once where its regions stand together."""

    def of_picture(labelled: Sequence[Labelled]) -> list[Floats]:
        picture = images.load(labelled[0].source)
        return [_thumbnail(Region(picture, each.box).pixels) for each in labelled]

    pictures = (list(each) for _, each in itertools.groupby(regions, key=lambda region: region.source))
    with ThreadPoolExecutor() as pool:
        rows = [row for rows in pool.map(of_picture, pictures) for row in rows]
    return np.array(rows, np.float32).reshape(len(regions), _SIDE * _SIDE * 3)


def _thumbnail(pixels: Pixels) -> Floats:
    """(V,), so scaled that the L2 distance of two is the root mean square of their levels' differences."""
    small = Image.fromarray(pixels).resize((_SIDE, _SIDE), Image.Resampling.BOX)
    levels = np.asarray(small, np.float32).reshape(-1) - 128
    return np.asarray(levels / np.sqrt(levels.size), np.float32)


def _pictures(messages: Messages) -> list[str]:
    """The addresses of what is shown."""
    contents = [message.get("content") for message in messages]
    parts = [part for content in contents if isinstance(content, list) for part in content]
    return [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]


def _instruction(messages: Messages) -> str:
    """What the last turn of the user says, without answers reported and schemas told in it."""
    last = next((text_of(message) for message in reversed(messages) if message["role"] == "user"), "")
    lines = last.splitlines()
    return "\n".join(line for line in lines if not line.startswith("{") and not _ANSWERS.match(line))


def _question(messages: Messages) -> str:
    """The last turn from its last question on; all that it says where there is no question mark."""
    text = _instruction(messages)
    questions = list(re.finditer(r"[^.?!\n]*\?", text))
    return text[questions[-1].start() :] if questions else text


def _answers(messages: Messages) -> list[str]:
    """What was answered in a talk, as far as it is knowledge: the lines marked so, else the user's turns."""
    texts = [text_of(message) for message in messages if message["role"] != "system"]
    answers = [answer for text in texts for answer in _ANSWERS.findall(text)]
    if not answers:
        roles = [message["role"] for message in messages]
        first = roles.index("assistant") if "assistant" in roles else len(roles)
        answers = [text_of(message) for message in messages[first:-1] if message["role"] == "user"]
    return [answer.strip() for answer in answers if not _IGNORANCE.search(answer)]


def _filled(schema: Mapping[str, Any], name: str, fill: Fill) -> Any:
    """A value that follows a schema; `fill` gives those of the fields that are no objects."""
    if schema.get("type") == "object":
        return {key: _filled(part, key, fill) for key, part in schema.get("properties", {}).items()}
    return fill(name, schema)


def _one_of(allowed: Sequence[str], *wanted: str) -> str:
    """The first one wanted that is allowed, in the schema's spelling; else the first one allowed."""
    spelled = {_plain(value): value for value in reversed(allowed)}
    return next((spelled[_plain(each)] for each in wanted if _plain(each) in spelled), allowed[0])


def _plain(text: str) -> str:
    """Without what spellings differ in."""
    return " ".join(re.split(r"[\W_]+", text.lower())).strip()


def _spaced(name: str) -> str:
    return name.replace("_", " ")


def _with_article(words: str) -> str:
    if words.endswith("s") and not words.endswith("ss"):
        return words  # several: "blue trousers"
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve an oracle until the process is ended; its URL is the first line of stdout."""
    parser = argparse.ArgumentParser(prog="python -m lookalike.testing.oracle", description=main.__doc__)
    parser.add_argument("dataset", help="a labelled data set")
    parser.add_argument("--split", help="its regions (default: every split's)")
    parser.add_argument("--lie", type=float, default=0.0, help="share of attributes that it lies about")
    parser.add_argument("--abstain", type=float, default=0.0, help="share of attributes that it does not see")
    parser.add_argument("--error", type=float, default=0.0, help="share of requests that fail")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--delay", type=float, default=0.0, help="seconds before each reply: simulated")
    parser.add_argument("--limit", type=float, help="requests a second; 429 above")
    parser.add_argument("--port", type=int, default=0, help="0: a free one")
    parser.add_argument("--while-stdin", action="store_true", help="end when stdin does")
    chosen = parser.parse_args(arguments)
    try:
        dataset = open_dataset(chosen.dataset)
        splits = [chosen.split] if chosen.split else dataset.splits
        read = (region for split in splits for region in dataset.read(split))
        # splits may overlap
        regions = {(each.source, each.box): each for each in read if isinstance(each, Labelled)}
        oracle = Oracle(regions.values(), chosen.lie, chosen.abstain, chosen.error, chosen.seed)
    except LookalikeError as error:
        sys.exit(f"{error}\n{error.hint}".strip())
    with (
        suppress(KeyboardInterrupt),
        Loopback(oracle, delay_s=chosen.delay, requests_per_s=chosen.limit, port=chosen.port) as server,
    ):
        print(server.url, flush=True)
        if chosen.while_stdin:
            threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
        server.serve_forever()


if __name__ == "__main__":
    main()
