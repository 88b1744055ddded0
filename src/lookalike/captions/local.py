"""Models run in this process by the transformers library (5).

Nothing is downloaded here, no code of a model's own is run, and no pickle is opened. Pictures are prepared by
the models' Pillow processors, so torchvision is not needed and what a model sees does not depend on it.
"""

from __future__ import annotations

import asyncio
import inspect
import io
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from typing import Any

from PIL import Image

from lookalike import hubs
from lookalike.captions.chat import Ask, CallFailed, Reply, Role, Turn
from lookalike.captions.folders import PROCESSORS, ModelFolder
from lookalike.captions.posting import in_words, picture_bytes
from lookalike.errors import BadInput, MissingExtra
from lookalike.hubs import LAYOUT, read_json
from lookalike.values import Region


class Transformers:
    """An engine that runs the two models here; see `chat.Engine`. Without `llm`, `vlm` plays both roles.

    Each is a hub model of `lookalike models list` that was pulled, or a folder: LLaVA (1.5, NeXT, OneVision),
    Qwen2-VL to Qwen3.5, Idefics 3, SmolVLM or BLIP-2; the asker may also be any text model with a chat
    template, Llama 3 for one. `device` is torch's name of one, None for CUDA where there is some and else the
    CPU. Half precision on CUDA, float32 elsewhere.

    A schema is told in words. At temperature 0 the likeliest token is taken; above, tokens are drawn at that
    temperature by `seed` + `sample`, from all there are: what generation_config.json says of sampling does
    not count. The calls of a model run one after the other in a thread of its own, which leaves the event
    loop and the process's random state alone. A call that is cancelled ends at its next token. There is no
    limit of time for a call beside its `max_tokens`. A reply's first token is timed as if it were streamed.

    WeightsError where a folder holds no model that is safe to open, BadInput where the model is of another
    kind or has no chat template, MissingExtra without the extra `hub`.
    """

    elsewhere = False

    def __init__(self, vlm: str, llm: str | None = None, device: str | None = None) -> None:
        if not all(map(find_spec, ("torch", "transformers", "safetensors", "jinja2"))):
            raise MissingExtra(f"the captioner transformers:{vlm}", "hub")
        seeing = ModelFolder.found(vlm)
        if not seeing.sees:
            raise BadInput(f"{seeing.path} holds a model of words alone", "name it as the asker, with --llm")
        asking = seeing if llm is None else ModelFolder.found(llm)
        self.name = f"transformers:{seeing.path.name}"
        self._device, self._dtype = _where(device)
        self._models: dict[Role, ModelFolder] = {"vlm": seeing, "llm": asking}
        self._threads = {model: ThreadPoolExecutor(1, "captions") for model in {seeing, asking}}
        self._opened: dict[ModelFolder, _Model] = {}

    async def ready(self) -> None:
        """Load both models; CallFailed where one cannot be loaded. The first call would do it otherwise."""
        loading = [thread.submit(self._open, model) for model, thread in self._threads.items()]
        await asyncio.gather(*map(asyncio.wrap_future, loading))

    def identity(self, to: Role) -> Mapping[str, str]:
        model = self._models[to]
        return {
            "engine": "transformers",
            "model": model.path.name,
            "weights": model.digest,
            "dtype": self._dtype,
            "device": self._device.partition(":")[0],
            "dialect": "prompt",
        }

    async def complete(self, ask: Ask) -> Reply:
        model = self._models[ask.to]
        given_up = threading.Event()
        try:
            return await asyncio.wrap_future(self._threads[model].submit(self._answer, model, ask, given_up))
        except asyncio.CancelledError:
            given_up.set()
            raise

    async def close(self) -> None:
        """Let go of the models; a later call loads them again."""
        self._opened.clear()

    def _open(self, model: ModelFolder) -> _Model:
        """In the model's own thread."""
        opened = self._opened.get(model)
        if opened is None:
            opened = self._opened[model] = _loaded(model, self._device, self._dtype)
        return opened

    def _answer(self, model: ModelFolder, ask: Ask, given_up: threading.Event) -> Reply:
        opened = self._open(model)
        try:
            return opened.answer(ask, given_up)
        except CallFailed:
            raise
        except Exception as error:  # what goes wrong in there has no common base
            raise CallFailed(f"{model.path.name} gave no reply: {hubs.first_line(error)}") from error


class _Model:
    """A model in memory. One call at a time."""

    def __init__(self, folder: ModelFolder, network: Any, processor: Any, tokenizer: Any) -> None:
        self._folder, self._network = folder, network
        self._processor, self._tokenizer = processor, tokenizer
        self._marks = [str(mark) for mark in tokenizer.added_tokens_decoder.values() if mark.special]
        self._ends = _forget_habits(network, tokenizer)

    def answer(self, ask: Ask, given_up: threading.Event) -> Reply:
        import torch

        started = time.perf_counter()
        prompt = self._prompt(ask if ask.schema is None else in_words(ask))
        watch = _Watch(self._tokenizer, ask.stop, given_up)
        drawn = [_Drawn(ask, self._network.device)] if ask.temperature > 0 else []
        with torch.inference_mode():
            made = self._network.generate(
                **prompt, max_new_tokens=ask.max_tokens, stopping_criteria=[watch], logits_processor=drawn
            )
        tokens = made[0, watch.start :].tolist()
        text = str(self._tokenizer.decode(tokens, skip_special_tokens=True))
        cuts = [place for stop in ask.stop if (place := text.find(stop)) >= 0]
        ended = bool(cuts) or tokens[-1] in self._ends
        return Reply(
            text[: min(cuts, default=None)],
            finish="stop" if ended else "length",
            tokens_in=int(prompt["input_ids"].shape[1]),
            tokens_out=len(tokens),
            first_ms=(watch.first - started) * 1000,
            total_ms=(time.perf_counter() - started) * 1000,
        )

    def _prompt(self, ask: Ask) -> dict[str, Any]:
        """What the network is given: token numbers (1, L) and, where there is one, the picture."""
        turns = [self._tamed(turn) for turn in ask.turns]
        shown = [turn.region for turn in turns if turn.region]
        name, sees = self._folder.path.name, self._folder.sees
        if shown and not sees:
            raise CallFailed(f"{name} sees no pictures", "name a model that does in its place")
        if self._folder.template:
            text = self._tokenizer.apply_chat_template(
                [_message(turn, in_parts=sees) for turn in turns],
                chat_template=self._folder.template,
                tokenize=False,
                add_generation_prompt=True,
                enable_thinking=False,  # read by the templates of models that think aloud
                date_string="26 Jul 2024",  # Llama's own default: a reply must not depend on the day
            )
            start = self._tokenizer.bos_token
            unmarked = sees and not (start and text.startswith(start))
        elif len(shown) == 1:
            text, unmarked = _questions(turns), True
        else:
            raise CallFailed(
                f"{name}, a BLIP-2, is asked about one picture, not {len(shown)}",
                "name a model of its own for the questions, with --llm",
            )
        pictures = {"images": [_seen(region) for region in shown]} if shown else {}
        made = self._processor(text=text, **pictures, return_tensors="pt", add_special_tokens=unmarked)
        device, dtype = self._network.device, self._network.dtype
        return {
            name: value.to(device, dtype) if value.is_floating_point() else value.to(device)
            for name, value in made.items()
            if name != "token_type_ids"
        }

    def _tamed(self, turn: Turn) -> Turn:
        """Without what the tokenizer reads as a mark: text that came out of a picture cannot end its turn."""
        text = turn.text
        for mark in self._marks:
            text = text.replace(mark, " ")
        return Turn(turn.by, text, turn.region)


class _Watch:
    """Asked after each token whether it was the last one; knows when the first came, and where."""

    def __init__(self, tokenizer: Any, stop: tuple[str, ...], given_up: threading.Event) -> None:
        self._tokenizer, self._stop, self._given_up = tokenizer, stop, given_up
        self.start, self.first = 0, 0.0

    def __call__(self, tokens: Any, scores: Any, **_: Any) -> Any:
        import torch

        if not self.first:
            self.start, self.first = tokens.shape[1] - 1, time.perf_counter()
        done = self._given_up.is_set()
        if self._stop and not done:
            text = self._tokenizer.decode(tokens[0, self.start :], skip_special_tokens=True)
            done = any(stop in text for stop in self._stop)
        return torch.full((len(tokens),), done, dtype=torch.bool, device=tokens.device)


class _Drawn:
    """Makes the likeliest token a drawn one.

    Logits over temperature plus Gumbel noise are largest at a draw from their softmax. The noise has a
    generator of its own; what transformers draws comes from the process's.
    """

    def __init__(self, ask: Ask, device: Any) -> None:
        import torch

        self._temperature = ask.temperature
        self._generator = torch.Generator(device).manual_seed(ask.seed + ask.sample)

    def __call__(self, tokens: Any, scores: Any) -> Any:
        import torch

        noise = -torch.empty_like(scores).exponential_(generator=self._generator).log()
        return scores / self._temperature + noise


def _forget_habits(network: Any, tokenizer: Any) -> list[int]:
    """Let a reply depend on nothing but the ask: beams, penalties and such of the folder are dropped.

    The tokens that end a reply.
    """
    from transformers import GenerationConfig

    speakers = [network, network.language_model] if network.config.model_type == "blip-2" else [network]
    kept: dict[str, Any] = {}
    for name in ("eos_token_id", "pad_token_id", "bos_token_id", "decoder_start_token_id"):
        said = [getattr(speaker.generation_config, name) for speaker in speakers]
        said.append(getattr(tokenizer, name, None))
        kept[name] = next((value for value in said if value is not None), None)
    ends = kept["eos_token_id"] if isinstance(kept["eos_token_id"], list) else [kept["eos_token_id"]]
    if kept["pad_token_id"] is None:  # nothing is ever padded, but without one there is a warning
        kept["pad_token_id"] = ends[0]
    for speaker in speakers:
        speaker.generation_config = GenerationConfig(**kept)
    return ends


def _message(turn: Turn, in_parts: bool) -> dict[str, Any]:
    """A turn as chat templates take it: of models that see, in parts; of the others, as a text."""
    if not in_parts:
        return {"role": turn.by, "content": turn.text}
    picture = [{"type": "image"}] if turn.region else []
    return {"role": turn.by, "content": [*picture, {"type": "text", "text": turn.text}]}


def _questions(turns: Sequence[Turn]) -> str:
    """Turns in the form that BLIP-2 knows, as ChatCaptioner writes it: instruction, pairs, question."""
    cues = {"system": "", "user": "Question: ", "assistant": "Answer: "}
    said = [cues[turn.by] + turn.text.strip().removeprefix(cues[turn.by]) for turn in turns]
    return " ".join([*said, "Answer:"])


def _seen(region: Region) -> Image.Image:
    """What a server would be sent: one way of showing a region means one kind of key in the cache."""
    return Image.open(io.BytesIO(picture_bytes(region))).convert("RGB")


def _loaded(model: ModelFolder, device: str, dtype: str) -> _Model:
    """The model in memory; CallFailed where it cannot be loaded."""
    import torch
    import transformers

    safely = {"local_files_only": True, "trust_remote_code": False}
    try:
        with hubs.loading():
            kind = (
                transformers.AutoModelForImageTextToText if model.sees else transformers.AutoModelForCausalLM
            )
            tokenizer = transformers.AutoTokenizer.from_pretrained(model.path, **safely)
            processor = _processor(model, tokenizer, safely) if model.sees else tokenizer
            network, report = kind.from_pretrained(
                model.path,
                use_safetensors=True,
                weights_only=True,
                dtype=getattr(torch, dtype),
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                **safely,
            )
            network = network.eval().to(device)
    except Exception as error:  # what goes wrong in there has no common base
        raise CallFailed(f"{model.path} cannot be loaded: {hubs.first_line(error)}", LAYOUT) from error
    if unfit := hubs.unfit(report):
        raise CallFailed(f"{model.path}: its weights do not fit: {unfit}", LAYOUT)
    return _Model(model, network, processor, tokenizer)


def _processor(model: ModelFolder, tokenizer: Any, safely: Mapping[str, Any]) -> Any:
    """The folder's processor, without its part for videos, which needs torchvision."""
    import transformers

    whole = getattr(transformers, PROCESSORS[model.kind])
    taken = inspect.signature(whole.__init__).parameters.keys()
    path = model.path / "processor_config.json"
    saved = read_json(path) if path.exists() else {}
    settings = {name: saved[name] for name in saved.keys() & taken - {"image_processor", "chat_template"}}
    if "video_processor" in taken:
        settings["video_processor"] = None

    class ForPictures(whole):  # type: ignore[misc, valid-type]
        # transformers takes these two names for all the parts that there are
        def __init__(self, image_processor: Any, tokenizer: Any) -> None:
            super().__init__(image_processor=image_processor, tokenizer=tokenizer, **settings)

    pictures = transformers.AutoImageProcessor.from_pretrained(model.path, backend="pil", **safely)
    made = ForPictures(pictures, tokenizer)
    for name in ("patch_size", "num_query_tokens"):  # says how many tokens a picture takes
        if getattr(made, name, 1) is None:
            raise ValueError(f"its processor_config.json does not say {name}")
    return made


def _where(device: str | None) -> tuple[str, str]:
    """A device and the precision there, both as torch names them."""
    import torch

    try:
        kind = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError:
        raise BadInput(f"there is no device called {device!r}", "cpu or cuda, for example") from None
    if kind.type != "cuda":
        return str(kind), "float32"
    if not torch.cuda.is_available():
        raise BadInput(f"there is no {kind} here that torch can use", "leave the device out, or name cpu")
    return str(kind), "bfloat16" if torch.cuda.is_bf16_supported() else "float16"
