"""An ask as it is posted to a server: the region as a picture, the schema in a dialect."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import replace
from typing import Any, Literal

from PIL import Image

from lookalike.captions.chat import Ask, Turn
from lookalike.values import Region

# How a server is told that a reply must follow a schema:
Dialect = Literal[
    "json_schema",  # response_format of that type
    "structured_outputs",  # vLLM's own field
    "json_object",  # response_format of that type, with a schema, and in words
    "prompt",  # in words alone
]
PREPROCESS = "jpeg-90-768"  # part of a cached reply's key: change it with what `picture_bytes` does
_LONGEST, _QUALITY = 768, 90


def picture_bytes(region: Region) -> bytes:
    """The region's pixels as a JPEG without metadata, its longest side at most 768; never enlarged.

    The same pixels give the same bytes.
    """
    crop = Image.fromarray(region.pixels)
    crop.thumbnail((_LONGEST, _LONGEST), Image.Resampling.LANCZOS)
    held = io.BytesIO()
    crop.save(held, "JPEG", quality=_QUALITY)
    return held.getvalue()


def picture_url(region: Region) -> str:
    """`picture_bytes` as a data URL."""
    return f"data:image/jpeg;base64,{base64.b64encode(picture_bytes(region)).decode()}"


def request(ask: Ask, model: str, dialect: Dialect) -> dict[str, Any]:
    """The fields of the call, as the SDK's `create` takes them."""
    fields: dict[str, Any] = {
        "model": model,
        "messages": [_message(turn) for turn in ask.turns],
        "max_tokens": ask.max_tokens,
        "temperature": ask.temperature,
        "seed": ask.seed + ask.sample,  # a sample of its own needs a seed of its own
    }
    if ask.stop:
        fields["stop"] = list(ask.stop)
    if ask.schema is not None:
        match dialect:
            case "json_schema":
                shape = {"name": "reply", "strict": True, "schema": ask.schema}
                form = {"type": "json_schema", "json_schema": shape}
                fields["extra_body"] = {"response_format": form}  # as it is: the SDK would walk through it
            case "structured_outputs":
                fields["extra_body"] = {"structured_outputs": {"json": ask.schema}}
            case "json_object":
                form = {"type": "json_object", "schema": ask.schema}
                fields["extra_body"] = {"response_format": form}
    return fields


def in_words(ask: Ask) -> Ask:
    """The same ask with its schema told at the end of the last user's turn too."""
    place = max(place for place, turn in enumerate(ask.turns) if turn.by == "user")
    words = (
        f"{ask.turns[place].text}\n\nReply with one JSON object and nothing else. It must follow this JSON "
        f"schema:\n{json.dumps(ask.schema)}"
    )
    told = replace(ask.turns[place], text=words)
    return replace(ask, turns=(*ask.turns[:place], told, *ask.turns[place + 1 :]))


def _message(turn: Turn) -> dict[str, Any]:
    if turn.region is None:
        return {"role": turn.by, "content": turn.text}
    picture = {"type": "image_url", "image_url": {"url": picture_url(turn.region)}}
    return {"role": turn.by, "content": [picture, {"type": "text", "text": turn.text}]}
