"""What a catalogue looks like in Milvus: its collections, the keys of rows, and rows as they lie there.

Keys are drawn from what they name by sha256, 63 bits of it: a region's from (item, sha256, box), an item's
from its id. Any two of a million regions share a key with a chance of 1 in 18 million, of a hundred million
with 1 in 1,800; the later one of such two would take the earlier one's place. Two equal boxes of one picture
are one region.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self
from urllib.parse import quote

import numpy as np

from lookalike.errors import BadInput
from lookalike.store.grammar import SEEN
from lookalike.store.table import HALF, halves, to_value
from lookalike.values import AttributeValue, Box, Caption, Claim, Floats, Item, Row

KINDS = ("t", "n", "b")  # text, numbers, truths: compared only among themselves
PRESENT = "p"  # beside them: that there is a value of any kind
TITLE, ID = "=title", "=id"  # beside the attributes, whose names never have a = here

_LONGEST = 65_535  # bytes of a text field, and of a JSON one

_Type = tuple[str, Mapping[str, Any]]  # of a field: its name in pymilvus, and what goes with it

_KEY: _Type = ("INT64", {})
_TEXT = ("VARCHAR", {"max_length": _LONGEST})
_WHICH = ("VARCHAR", {"max_length": 512})
_NO_VECTOR = ("FLOAT_VECTOR", {"dim": 2})  # every collection has to have one

FACTS: dict[str, _Type] = {
    "id": _WHICH, "kind": _WHICH, "build": _WHICH, "name": _TEXT, "value": _TEXT, "vector": _NO_VECTOR,
}  # fmt: skip
SIGHTINGS: dict[str, _Type] = {  # of pictures
    "key": _KEY, "item": _KEY, "origin": _KEY, "source": _KEY, "run": _KEY, "told": _TEXT,
    "vector": _NO_VECTOR,
}  # fmt: skip


def regions(dim: int) -> dict[str, _Type]:
    """The fields of a build's collection. `told` is what a row says, `asked` what filters ask."""
    return {
        "key": _KEY, "item": _KEY, "picture": _KEY, "content": _KEY,
        "told": _TEXT, "meaning": _TEXT, "asked": ("JSON", {}), "vector": ("FLOAT_VECTOR", {"dim": dim}),
    }  # fmt: skip


def key_of(*named: object) -> int:
    """0 to 2^63 - 1, the same for the same names."""
    text = json.dumps([str(name) for name in named])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def item_key(item: str) -> int:
    return key_of("item", item)


def picture_key(item: str, sha256: str) -> int:
    return key_of("picture", item, sha256)


def region_key(item: str, sha256: str, box: Box | None) -> int:
    corners = () if box is None else tuple(float(corner) for corner in box.corners)
    return key_of("region", item, sha256, *corners)


@dataclass(frozen=True, slots=True, eq=False)
class Stored:
    """One region as it lies in the server, without its item's title and attributes in two forms."""

    row: Row
    place: int  # among the regions of its picture

    @property
    def key(self) -> int:
        return region_key(self.row.item.id, self.row.sha256, self.row.box)

    @property
    def picture(self) -> int:
        return picture_key(self.row.item.id, self.row.sha256)

    @classmethod
    def read(cls, record: Mapping[str, Any]) -> Self:
        """From the fields `told`, `meaning` and `vector`, of which the last two may lack."""
        told = json.loads(record["told"])
        caption = told["caption"] and Caption(
            told["caption"]["text"],
            told["caption"]["by"],
            claims=tuple(
                Claim(each["text"], each["attribute"], each["value"], each["support"], each["believed"])
                for each in told["caption"]["claims"]
            ),
        )
        return cls(
            Row(
                item=Item(told["item"], told["title"], _attributes(told["attributes"])),
                source=told["source"],
                sha256=told["sha256"],
                width=told["width"],
                height=told["height"],
                vector=np.asarray(record["vector"], np.float32)
                if "vector" in record
                else np.zeros(0, np.float32),
                box=None if told["box"] is None else Box(*told["box"]),
                score=told["score"],
                caption=caption,
                meaning=meaning_of(record.get("meaning", "")),
                origin=told["origin"],
            ),
            told["place"],
        )


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """An item with its regions, picture by picture: what is written at once."""

    item: Item
    pictures: dict[str, list[Row]] = field(default_factory=dict)  # by sha256

    @classmethod
    def of(cls, stored: Sequence[Stored]) -> Self:
        """Of one item's regions, one at least."""
        made = cls(stored[0].row.item)
        for each in sorted(stored, key=lambda each: (each.picture, each.place)):
            made.pictures.setdefault(each.row.sha256, []).append(each.row)
        return made

    def told(self, item: Item) -> Self:
        return replace(self, item=item)

    def records(self) -> dict[int, dict[str, Any]]:
        """As the server is given them, by key."""
        asked = _asked(self.item, (row for rows in self.pictures.values() for row in rows))
        if len(json.dumps(asked)) > _LONGEST:
            raise BadInput(
                f"the attributes of {self.item.id!r} are longer than Milvus takes (64 KB, text counts twice)",
                "leave long texts out of the attributes",
            )
        made = {}
        for sha256, rows in self.pictures.items():
            for place, row in enumerate(rows):
                key = region_key(self.item.id, sha256, row.box)
                made[key] = {
                    "key": key, "item": item_key(self.item.id), "picture": picture_key(self.item.id, sha256),
                    "content": key_of("content", sha256), "told": _told(self.item, row, place),
                    "meaning": meaning_in(row.meaning), "asked": asked,
                    "vector": row.vector,
                }  # fmt: skip
        return made


def checked(rows: Sequence[Row], dim: int) -> list[Row]:
    """Rows as they are stored: descriptors in fp16's precision, without captions that say nothing.

    BadInput for what cannot be stored.
    """
    vectors = halves([row.vector for row in rows], dim).astype(np.float32)
    made = []
    for row, vector in zip(rows, vectors, strict=True):
        if not math.isfinite(row.score):
            raise BadInput(f"{row.source}: a region's score must be a finite number, not {row.score}")
        told = row.caption if row.caption and row.caption.text else None
        meaning = None
        if told and row.meaning is not None:
            meaning = halves([row.meaning], dim)[0].astype(np.float32)
        for claim in told.claims if told else ():
            if not all(map(math.isfinite, claim.support.values())):
                raise BadInput(f"{claim.text!r}: a claim's support must be finite numbers")
        made.append(replace(row, vector=vector, caption=told, meaning=meaning, score=float(row.score)))
    return made


def meaning_in(meaning: Floats | None) -> str:
    """As text: a collection of server 2.3.5 holds one vector a row."""
    return "" if meaning is None else base64.b64encode(meaning.astype(HALF).tobytes()).decode()


def meaning_of(text: str) -> Floats | None:
    return np.frombuffer(base64.b64decode(text), HALF).astype(np.float32) if text else None


def name_in(attribute: str) -> str:
    """An attribute's name as a key that needs no quoting in an expression."""
    return quote(attribute, safe="").replace("~", "%7E")


def text_in(text: str) -> str:
    """Text for comparing: hexadecimal digits of its UTF-8 keep its order and need no quoting."""
    return text.encode().hex()


def _told(item: Item, row: Row, place: int) -> str:
    caption = row.caption and {
        "text": row.caption.text, "by": row.caption.by,
        "claims": [
            {
                "text": claim.text, "attribute": claim.attribute, "value": claim.value,
                "support": {check: float(share) for check, share in sorted(claim.support.items())},
                "believed": bool(claim.believed),
            }
            for claim in row.caption.claims
        ],
    }  # fmt: skip
    told = json.dumps(
        {
            "item": item.id, "title": item.title, "attributes": list(_pairs(item)), "source": row.source,
            "origin": row.origin, "sha256": row.sha256, "width": row.width, "height": row.height,
            "box": None if row.box is None else [float(corner) for corner in row.box.corners],
            "score": row.score, "place": place,
            "caption": caption,
        }
    )  # fmt: skip
    if len(told) > _LONGEST:
        raise BadInput(
            f"what is known of {row.source} is longer than Milvus takes (64 KB)",
            "shorten the title, the attributes or the caption",
        )
    return told


def _pairs(item: Item) -> Iterable[tuple[str, AttributeValue]]:
    for name, values in item.attributes.items():
        for value in values if isinstance(values, tuple) else (values,):
            to_value(value)
            if isinstance(value, float) and math.isinf(value):
                raise BadInput(f"{item.id}: Milvus keeps no infinite attributes", "give it as text")
            if isinstance(value, int) and not -(2**63) <= value < 2**63:
                raise BadInput("an attribute is a whole number beyond 64 bits", "give it as text")
            yield name, value


def _attributes(
    pairs: Sequence[tuple[str, AttributeValue]],
) -> dict[str, AttributeValue | tuple[AttributeValue, ...]]:
    found: dict[str, tuple[AttributeValue, ...]] = {}
    for name, value in pairs:
        found[name] = (*found.get(name, ()), value)
    return {name: values if len(values) > 1 else values[0] for name, values in found.items()}


def _asked(item: Item, rows: Iterable[Row]) -> dict[str, dict[str, list[Any]]]:
    """What filters compare, by name and kind, each value once. Each row has all of its item's."""
    try:
        values: list[tuple[str, AttributeValue]] = [
            (name_in(name), value) for name, value in _pairs(item) if not name.startswith(SEEN)
        ]
        for row in rows:
            for claim in row.caption.claims if row.caption else ():
                if claim.believed and claim.attribute:
                    values.append((name_in(SEEN + claim.attribute), claim.value))
        asked: dict[str, dict[str, list[Any]]] = {
            TITLE: {"t": [text_in(item.title.casefold())]}, ID: {"t": [text_in(item.id)]}
        }  # fmt: skip
        for name, value in values:
            kind = "b" if isinstance(value, bool) else "t" if isinstance(value, str) else "n"
            compared = (
                text_in(value.casefold()) if isinstance(value, str) else int(value) if kind == "b" else value
            )
            some = asked.setdefault(name, {PRESENT: [1]}).setdefault(kind, [])
            if compared not in some:
                some.append(compared)
    except UnicodeEncodeError as error:
        raise BadInput(f"text that is not valid Unicode cannot be stored: {error.object!r}") from None
    return asked
