"""Captions by a model that runs on the cluster itself: the form of `attributes`, asked without any server.

A region is a row. It is read and made a question by as many processes as have room, passes the engine, and
comes back as a record; the file of records is written where the command runs. The engine is a stage like any
other: it takes a Ray data set whose rows have `ask`, the fields of a chat completion as JSON, and gives it
back with `reply`, the model's text, or `error`, beside the other columns. `VLLM` is the one that ships.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from lookalike import images
from lookalike.captions import Record, Unread, Vocabulary, checking
from lookalike.captions.captioner import worded
from lookalike.captions.chat import Step
from lookalike.captions.posting import request
from lookalike.captions.prompts import Prompt, load
from lookalike.captions.replies import Unusable, fault, parsed
from lookalike.captions.strategies import Told
from lookalike.captions.strategies.attributes import question
from lookalike.datasets import Listed
from lookalike.errors import BadInput, BadPicture
from lookalike.jobs.orders import check_version, version
from lookalike.jobs.working import located
from lookalike.values import Box, Caption, Region, corners_of

Stage = Callable[[Any], Any]  # a Ray data set to another one

BLOCK = 64  # regions that go through the stages together: what is lost with a process


@dataclass(frozen=True, slots=True)
class Form:
    """What is asked of each region, and whom; the same for all of a run."""

    model: str
    vocabulary: Vocabulary
    prompt: Prompt
    check: bool = True  # compare claims with the region's pixels
    version: str = field(default_factory=version)  # of lookalike, which all machines share

    @classmethod
    def of(cls, model: str, vocabulary: str, prompt: str | None, check: bool) -> Form:
        return cls(model, Vocabulary.open(vocabulary), load("attributes", prompt), check)

    @property
    def name(self) -> str:
        """The captioner's, as it stands in the records."""
        words = f"{self.vocabulary.name}:{self.vocabulary.version}"
        unchecked = "" if self.check else " unchecked"
        return f"ray {self.model} attributes/{self.prompt.version} {words}{unchecked}"


@dataclass(frozen=True, slots=True)
class VLLM:
    """An engine: vLLM through `ray.data.llm`, so many copies of the model on a GPU each."""

    model: str
    copies: int

    def __call__(self, rows: Any) -> Any:
        from ray.data.llm import build_processor, vLLMEngineProcessorConfig

        config = vLLMEngineProcessorConfig(
            model_source=self.model,
            concurrency=self.copies,
            prepare_multimodal_stage=True,
            should_continue_on_error=True,  # a row that fails has the column __inference_error__
        )
        asked = build_processor(config, preprocess=_parameters, postprocess=_replied)(rows)
        return asked.map(_failed)


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a machine, or with what it reaches, and not with a picture: the run ends with it."""

    message: str
    hint: str

    @classmethod
    def of(cls, error: Exception) -> Fault:
        told = located(error)
        return cls(str(told), told.hint)


Made = Record | Unread | Fault


class Leader:
    """Takes regions through the stages; each `next` waits for a record, None after the last one.

    What is lost with a process of the cluster does not come back: who asks for it counts.
    """

    def __init__(self, entries: Sequence[str], form: Form, engine: Stage) -> None:
        self._made = _captioned(entries, form, engine)

    def next(self) -> Made | None:
        return next(self._made, None)


def entry(listed: Listed) -> str:
    """A listed region as `Leader` takes it: text, whatever bytes its path has."""
    return json.dumps([listed.source, listed.item.id, corners_of(listed.box)])


def _captioned(entries: Sequence[str], form: Form, engine: Stage) -> Iterator[Made]:
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.max_errored_blocks = -1
    blocks = -(-len(entries) // BLOCK)
    rows = ray.data.from_items([{"entry": each} for each in entries], override_num_blocks=max(1, blocks))
    asked = rows.map(_Asking, fn_constructor_args=(form,), compute=ray.data.ActorPoolStrategy(min_size=1))
    told = engine(asked).map(
        _Reading, fn_constructor_args=(form,), compute=ray.data.ActorPoolStrategy(min_size=1)
    )
    for row in told.iter_rows():
        yield row["made"]


class _Asking:
    """A stage: the question about a region. What cannot be asked passes the engine as a bare word, so that as
    many rows come out of it as went in, and `unasked` says why."""

    def __init__(self, form: Form) -> None:
        self._form = form

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        try:
            check_version(self._form.version)
            return {**row, "ask": json.dumps(self._asked(row)), "unasked": ""}
        except Exception as error:
            nothing = {"messages": [{"role": "user", "content": "-"}], "max_tokens": 1}
            return {**row, "ask": json.dumps(nothing), "unasked": json.dumps(asdict(_unasked(row, error)))}

    def _asked(self, row: Mapping[str, Any]) -> dict[str, Any]:
        ask = question(_region(row), self._form.vocabulary, self._form.prompt)
        fields = request(ask, self._form.model, "structured_outputs")
        schema: dict[str, Any] = fields.pop("extra_body")
        return fields | schema  # as it is posted


class _Reading:
    """A stage: what a reply is worth. A failure is a caption with an error, as everywhere."""

    def __init__(self, form: Form) -> None:
        self._form = form

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Made]:
        if row["unasked"]:
            told = json.loads(row["unasked"])
            return {"made": Fault(**told) if "hint" in told else Unread(**told)}
        try:
            return {"made": self._record(row)}
        except Exception as error:
            return {"made": _unasked(row, error)}

    def _record(self, row: Mapping[str, Any]) -> Record:
        source, item, _ = json.loads(row["entry"])
        region = _region(row)
        caption, step = self._read(row, region)
        created = datetime.now(UTC).isoformat(timespec="seconds")
        sha256 = region.picture.sha256
        return Record(source, item, sha256, region.box, caption, transcript=(step,), created=created)

    def _read(self, row: Mapping[str, Any], region: Region) -> tuple[Caption, Step]:
        form, raw = self._form, row["reply"]
        asked = question(region, form.vocabulary, form.prompt)
        if row["error"]:
            step = Step("vlm", asked.turns[-1].text, raw, "", "failed", extra={"error": row["error"]})
            return Caption("", form.name, error=row["error"]), step
        try:
            value = parsed(raw, form.vocabulary.schema())
            claims = Told.of([form.vocabulary.claims(form.vocabulary.values(value))]).claims
        except Unusable as error:
            status = error.status if error.status == "not_visible" else fault(raw) or error.status
            step = Step("vlm", asked.turns[-1].text, raw, "", status, extra={"why": error.why})
            return Caption("", form.name, error=f"{status}: {error.why}"), step
        if form.check:
            claims = checking.pixels(claims, region)
        step = Step("vlm", asked.turns[-1].text, raw, json.dumps(value, ensure_ascii=False), "ok")
        return worded(claims, form.vocabulary, form.name), step


def _region(row: Mapping[str, Any]) -> Region:
    """BadPicture where the picture cannot be used, or the box lies beside it."""
    source, _, corners = json.loads(row["entry"])
    picture = images.load(source)
    try:
        return Region(picture, None if corners is None else Box(*corners))
    except BadInput as error:
        raise BadPicture(f"{source}: {error}") from None


def _unasked(row: Mapping[str, Any], error: Exception) -> Unread | Fault:
    return (
        Unread(json.loads(row["entry"])[0], str(error)) if isinstance(error, BadPicture) else Fault.of(error)
    )


def _parameters(row: Mapping[str, Any]) -> dict[str, Any]:
    fields = json.loads(row["ask"])
    fields.pop("model", None)
    return {"messages": fields.pop("messages"), "sampling_params": fields}


def _replied(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"entry": row["entry"], "unasked": row["unasked"], "reply": row["generated_text"], "error": ""}


def _failed(row: Mapping[str, Any]) -> dict[str, Any]:
    """Rows of which the engine made nothing come past `_replied`."""
    error = str(row.get("__inference_error__") or "").strip().split("\n", 1)[0]
    return {"entry": row["entry"], "unasked": row["unasked"], "reply": row.get("reply") or "", "error": error}
