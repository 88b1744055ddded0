"""Models in process: tiny ones of every family, saved and loaded, against the library by hand."""

from __future__ import annotations

import asyncio
import io
import json
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lookalike.captions.chat import Ask, CallFailed, Reply, Turn
from lookalike.captions.local import Transformers
from lookalike.errors import BadInput, LookalikeError, MissingExtra, WeightsError
from lookalike.testing import drawing
from lookalike.values import Box, Picture, Region

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

MARKS = (
    "<pad>", "<s>", "</s>", "<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>",
    "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>",
    "<row_1_col_1>", "<row_1_col_2>", "<row_2_col_1>", "<row_2_col_2>",
)  # fmt: skip
NUMBERS = {mark: number for number, mark in enumerate(MARKS)}
LETTERS = "ĠĊ" + "".join(map(chr, range(33, 127)))  # printable ASCII, as byte-level vocabularies spell it
SIZE = len(MARKS) + len(LETTERS)

NETWORK = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
TOKENS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
READING = NETWORK | TOKENS | {"vocab_size": SIZE, "num_key_value_heads": 2, "max_position_embeddings": 4096}
SIGHT = NETWORK | {"image_size": 28, "patch_size": 14}

LLAVA = (
    "{% for turn in messages %}{{ {'system': '', 'user': 'USER: ', 'assistant': 'ASSISTANT: '}[turn.role] }}"
    "{% for part in turn.content %}{{ '<image>\n' if part.type == 'image' else part.text }}{% endfor %} "
    "{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
QWEN = (
    "{% for turn in messages %}<|im_start|>{{ turn.role }}\n{% for part in turn.content %}"
    "{{ '<|vision_start|><|image_pad|><|vision_end|>' if part.type == 'image' else part.text }}{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SMOL = (
    "<|im_start|>{% for turn in messages %}{{ turn.role | capitalize }}"
    "{{ ':' if turn.content[0].type == 'image' else ': ' }}{% for part in turn.content %}"
    "{{ '<image>' if part.type == 'image' else part.text }}{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)
LLAMA = (  # with what those of some models ask for
    "{{ bos_token }}{{ date_string if date_string is defined else strftime_now('%d %b %Y') }}"
    "{{ '<think>' if enable_thinking is not defined or enable_thinking else '' }}"
    "{% for turn in messages %}<|im_start|>{{ turn.role }}\n\n{{ turn.content | trim }}"
    "<|im_end|>{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n\n{% endif %}"
)
TEMPLATES = {
    "llava": LLAVA, "llava_next": LLAVA, "llava_onevision": LLAVA, "smolvlm": SMOL, "idefics3": SMOL,
    "qwen2": QWEN, "qwen2_5": QWEN, "qwen3": QWEN, "qwen3_5": QWEN,
    "llama": LLAMA,
}  # fmt: skip
SEEING = ("llava", "qwen2_5", "qwen3", "smolvlm", "opt", "t5")  # the last two are BLIP-2 with those readers
KIN = ("llava_next", "llava_onevision", "qwen2", "qwen3_5", "idefics3")

REGION = Region(Picture.of(drawing(1)), Box(8, 20, 64, 104))
OTHER = Region(Picture.of(drawing(2)), Box(8, 20, 64, 104))
SYSTEM = Turn("system", "Answer honestly.")
FIRST = Turn("user", "What is it?", REGION)
DIALOGUE = (SYSTEM, FIRST, Turn("assistant", "A red coat."), Turn("user", "Which collar?"))
PLAIN = (SYSTEM, Turn("user", "Ask me something."))

Make = Callable[..., Path]


def config(family: str) -> Any:
    places = {"image_token_id": NUMBERS["<image>"]}
    qwen = {
        "image_token_id": NUMBERS["<|image_pad|>"],
        "video_token_id": NUMBERS["<|video_pad|>"],
        "vision_start_token_id": NUMBERS["<|vision_start|>"],
        "vision_end_token_id": NUMBERS["<|vision_end|>"],
    }
    spread = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}
    tower = {"depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "out_hidden_size": 32}
    match family:
        case "llama":
            return transformers.LlamaConfig(**READING)
        case "llava":
            return transformers.LlavaConfig(
                vision_config={"model_type": "clip_vision_model"} | SIGHT,
                text_config={"model_type": "llama"} | READING,
                image_token_index=NUMBERS["<image>"],
            )
        case "llava_next":
            return transformers.LlavaNextConfig(
                vision_config={"model_type": "clip_vision_model"} | SIGHT,
                text_config={"model_type": "llama"} | READING,
                image_token_index=NUMBERS["<image>"],
                image_grid_pinpoints=[[28, 56], [56, 28], [56, 56]],
            )
        case "llava_onevision":
            return transformers.LlavaOnevisionConfig(
                vision_config={"model_type": "siglip_vision_model"} | SIGHT,
                text_config={"model_type": "qwen2"} | READING,
                image_token_index=NUMBERS["<image>"],
                video_token_index=NUMBERS["<|video_pad|>"],
                image_grid_pinpoints=[[28, 56], [56, 28], [56, 56]],
            )
        case "qwen2":
            return transformers.Qwen2VLConfig(
                vision_config={
                    "depth": 2,
                    "embed_dim": 32,
                    "hidden_size": 32,
                    "num_heads": 2,
                    "mlp_ratio": 2,
                },
                text_config=READING | {"rope_parameters": spread},
                **qwen,
            )
        case "qwen2_5":
            return transformers.Qwen2_5_VLConfig(
                vision_config=tower | {"patch_size": 14, "fullatt_block_indexes": [1], "window_size": 56},
                text_config=READING | {"rope_parameters": spread},
                **qwen,
            )
        case "qwen3":
            return transformers.Qwen3VLConfig(
                vision_config=tower | {"patch_size": 14, "deepstack_visual_indexes": [0]},
                text_config=READING | {"head_dim": 8, "rope_parameters": spread},
                **qwen,
            )
        case "qwen3_5":
            linear = ("key_heads", "value_heads")
            return transformers.Qwen3_5Config(
                vision_config=tower | {"patch_size": 14},
                text_config=READING
                | {"head_dim": 8, "rope_parameters": spread | {"partial_rotary_factor": 1.0}}
                | {"layer_types": ["linear_attention", "full_attention"]}
                | {f"linear_num_{heads}": 2 for heads in linear}
                | {f"linear_{heads.split('_')[0]}_head_dim": 8 for heads in linear},
                **qwen,
            )
        case "smolvlm" | "idefics3":
            kind = {"smolvlm": "SmolVLMConfig", "idefics3": "Idefics3Config"}[family]
            return getattr(transformers, kind)(
                vision_config=SIGHT, text_config={"model_type": "llama"} | READING, scale_factor=2, **places
            )
    reader = {
        "opt": {"model_type": "opt", "ffn_dim": 48, "word_embed_proj_dim": 32} | READING,
        "t5": {"model_type": "t5", "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
        | TOKENS
        | {"vocab_size": SIZE, "decoder_start_token_id": 0},
    }[family]
    return transformers.Blip2Config(
        vision_config=SIGHT,
        qformer_config=NETWORK | {"vocab_size": 20, "encoder_hidden_size": 32},
        text_config=reader,
        num_query_tokens=3,
        image_token_index=NUMBERS["<image>"],
    )


def tokenizer(family: str) -> Any:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

    letters = {letter: len(MARKS) + place for place, letter in enumerate(LETTERS)}
    made = Tokenizer(models.BPE(NUMBERS | letters, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(mark, special=True, normalized=False) for mark in MARKS])
    if family in ("llava", "llama", "opt"):
        made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )


def image_processor(family: str) -> Any:
    whole = {"height": 28, "width": 28}
    match family:
        case "llava":
            return transformers.CLIPImageProcessor(size={"shortest_edge": 28}, crop_size=whole)
        case "llava_next" | "llava_onevision":
            kind = {
                "llava_next": "LlavaNextImageProcessor",
                "llava_onevision": "LlavaOnevisionImageProcessor",
            }
            sizes = (
                {"size": {"shortest_edge": 28}, "crop_size": whole}
                if family == "llava_next"
                else {"size": whole}
            )
            return getattr(transformers, kind[family])(
                image_grid_pinpoints=[[28, 56], [56, 28], [56, 56]], **sizes
            )
        case "qwen2" | "qwen2_5" | "qwen3" | "qwen3_5":
            return transformers.Qwen2VLImageProcessor(
                size={"shortest_edge": 28**2, "longest_edge": 56**2}, patch_size=14
            )
        case "smolvlm" | "idefics3":
            return transformers.Idefics3ImageProcessor(
                size={"longest_edge": 56}, max_image_size={"longest_edge": 28}
            )
    return transformers.BlipImageProcessor(size=whole)


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Saves a model with weights that its seed says, once; replies of it do not end by themselves."""
    kept: dict[tuple[str, int], Path] = {}

    def make_it(family: str, seed: int = 0) -> Path:
        if (family, seed) not in kept:
            kept[family, seed] = tmp_path_factory.mktemp(family)
            save(family, seed, kept[family, seed])
        return kept[family, seed]

    return make_it


def save(family: str, seed: int, folder: Path) -> None:
    settings = config(family)
    auto = (
        transformers.AutoModelForCausalLM if family == "llama" else transformers.AutoModelForImageTextToText
    )
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        model = auto.from_config(settings)
        for parameter in model.parameters():
            if parameter.ndim > 1:  # loud enough to tell pictures apart
                parameter.normal_(0, parameter[0].numel() ** -0.5)
        speaker = model.language_model if family in ("opt", "t5") else model
        head = speaker.get_output_embeddings().weight
        head[: len(MARKS)] = 0  # the others' best is above 0: only letters are said
    model.save_pretrained(folder)
    tokenizer(family).save_pretrained(folder)
    if family in TEMPLATES:
        (folder / "chat_template.jinja").write_text(TEMPLATES[family])
    if family != "llama":
        image_processor(family).save_pretrained(folder)
    default = {
        "patch_size": 14,
        "vision_feature_select_strategy": "default",
        "num_additional_image_tokens": 1,
    }
    facts = {
        "llava": default,
        "llava_next": default,
        "llava_onevision": {"num_image_tokens": 4, "vision_feature_select_strategy": "full"},
        "smolvlm": {"processor_class": "SmolVLMProcessor", "image_seq_len": 1},
        "idefics3": {"image_seq_len": 1},
        "opt": {"num_query_tokens": 3},
        "t5": {"num_query_tokens": 3},
    }
    if family in facts:
        (folder / "processor_config.json").write_text(json.dumps(facts[family]))


def told(engine: Transformers, *asks: Ask) -> list[Reply]:
    """The replies, one call after the other."""

    async def run() -> list[Reply]:
        return [await engine.complete(ask) for ask in asks]

    return asyncio.run(run())


def ask(*turns: Turn, **options: Any) -> Ask:
    return Ask("vlm", turns, **({"max_tokens": 24} | options))


# What the model is given, written out: <P> stands for the picture's own tokens.
PROMPTS = {
    "llava": "<s>Answer honestly. USER: <P>\nWhat is it? ASSISTANT: A red coat. USER: Which collar? "
    "ASSISTANT:",
    "qwen2_5": "<|im_start|>system\nAnswer honestly.<|im_end|>\n<|im_start|>user\n"
    "<|vision_start|><P><|vision_end|>What is it?<|im_end|>\n<|im_start|>assistant\nA red coat.<|im_end|>\n"
    "<|im_start|>user\nWhich collar?<|im_end|>\n<|im_start|>assistant\n",
    "smolvlm": "<|im_start|>System: Answer honestly.<end_of_utterance>\nUser:<P>What is it?"
    "<end_of_utterance>\nAssistant: A red coat.<end_of_utterance>\n"
    "User: Which collar?<end_of_utterance>\nAssistant:",
    "opt": "<P><s>Answer honestly. Question: What is it? Answer: A red coat. Question: Which collar? Answer:",
    "t5": "<P>Answer honestly. Question: What is it? Answer: A red coat. Question: Which collar? Answer:",
}  # fmt: skip
PROMPTS["qwen3"] = PROMPTS["qwen2_5"]

ASKING = (
    "<s>26 Jul 2024<|im_start|>system\n\nAnswer honestly.<|im_end|><|im_start|>user\n\nAsk me something."
    "<|im_end|><|im_start|>assistant\n\n"
)
TILE = "<fake_token_around_image><row_{}_col_{}><image>"
PICTURES = {  # 56 x 84 pixels
    "llava": "<image>" * 4,
    "qwen2_5": "<|image_pad|>" * 2,
    "qwen3": "<|image_pad|>" * 2,
    "smolvlm": TILE.format(1, 1) + TILE.format(1, 2) + "\n" + TILE.format(2, 1) + TILE.format(2, 2)
    + "\n\n<fake_token_around_image><global-img><image><fake_token_around_image>",
    "opt": "<image>" * 3,
    "t5": "<image>" * 3,
}  # fmt: skip


def by_hand(family: str, folder: Path, region: Region, tokens: int) -> tuple[str, int]:
    """The reply and the prompt's length, from the library's own greedy search and the prompt above."""
    read = tokenizer(family)
    numbers = read(PROMPTS[family].replace("<P>", PICTURES[family]), add_special_tokens=False)["input_ids"]
    given = {"input_ids": torch.tensor([numbers]), "attention_mask": torch.ones(1, len(numbers), dtype=int)}
    sent = io.BytesIO()
    Image.fromarray(region.pixels).save(sent, "JPEG", quality=90)
    seen = image_processor(family)(Image.open(sent), return_tensors="pt")
    given |= {name: value for name, value in seen.items() if name not in ("rows", "cols")}
    if family.startswith("qwen"):
        given["mm_token_type_ids"] = (given["input_ids"] == NUMBERS["<|image_pad|>"]).long()
    model = transformers.AutoModelForImageTextToText.from_pretrained(folder).eval()
    with torch.inference_mode():
        made = model.generate(**given, do_sample=False, max_new_tokens=tokens)[0, -tokens:]
    return read.decode(made, skip_special_tokens=True), len(numbers)


@pytest.mark.parametrize("family", SEEING)
def test_asks_the_model_what_the_turns_say_and_show(family: str, make: Make) -> None:
    engine = Transformers(str(make(family)))
    other = (SYSTEM, Turn("user", FIRST.text, OTHER), *DIALOGUE[2:])
    first, second, again = told(engine, ask(*DIALOGUE), ask(*other), ask(*DIALOGUE))
    expected, length = by_hand(family, make(family), REGION, 24)
    assert first.text == expected
    assert (first.tokens_in, first.tokens_out, first.finish) == (length, 24, "length")
    assert second.text == by_hand(family, make(family), OTHER, 24)[0] != first.text
    assert again.text == first.text
    assert first.first_ms is not None
    assert 0 < first.first_ms <= first.total_ms


@pytest.mark.parametrize("family", KIN)
def test_kin_of_these_see_too(family: str, make: Make) -> None:
    engine = Transformers(str(make(family)))
    bare = Turn("user", FIRST.text)
    one, other, again, blind = told(
        engine, ask(FIRST), ask(Turn("user", FIRST.text, OTHER)), ask(FIRST), ask(bare)
    )
    assert one.text == again.text != other.text
    assert one.tokens_in == other.tokens_in > blind.tokens_in


def test_reads_a_processor_that_was_saved_as_one(make: Make, tmp_path: Path) -> None:
    shutil.copytree(make("llava"), folder := tmp_path / "llava")
    for name in ("preprocessor_config.json", "processor_config.json", "chat_template.jinja"):
        (folder / name).unlink()
    transformers.LlavaProcessor(
        image_processor("llava"),
        tokenizer("llava"),
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=LLAVA,
    ).save_pretrained(folder)
    assert not (folder / "preprocessor_config.json").exists()
    whole, parts = (told(Transformers(str(place)), ask(FIRST))[0] for place in (folder, make("llava")))
    assert (whole.text, whole.tokens_in) == (parts.text, parts.tokens_in)


def test_a_large_picture_is_shown_smaller(make: Make) -> None:
    large = Image.fromarray(drawing(5, 1000, 2000))
    small = large.copy()
    small.thumbnail((768, 768), Image.Resampling.LANCZOS)
    shown = [Region(Picture.of(np.asarray(image))) for image in (large, small)]
    one, other = told(
        Transformers(str(make("llava"))), *(ask(Turn("user", "Which?", each)) for each in shown)
    )
    assert (one.text, one.tokens_in) == (other.text, other.tokens_in)


def test_text_models_ask(make: Make) -> None:
    engine = Transformers(str(make("llava")), str(make("llama")))
    asked = Ask("llm", PLAIN, max_tokens=24)
    [reply] = told(engine, asked)
    given = tokenizer("llama")(ASKING, add_special_tokens=False, return_tensors="pt")["input_ids"]
    model = transformers.LlamaForCausalLM.from_pretrained(make("llama"))
    made = model.generate(given, do_sample=False, max_new_tokens=24)[0, given.shape[1] :]
    assert reply.text == tokenizer("llama").decode(made)
    assert reply.tokens_in == given.shape[1]  # one <s>, not two
    assert told(engine, ask(*PLAIN))[0].text != reply.text


def test_one_model_plays_both_roles(make: Make) -> None:
    engine = Transformers(str(make("qwen3")))
    asker, answerer = told(engine, Ask("llm", PLAIN, max_tokens=24), ask(*PLAIN))
    assert asker.text == answerer.text
    assert engine.identity("llm") == engine.identity("vlm")


@pytest.mark.parametrize("family", ["llava", "opt"])
def test_draws_by_seed_and_sample(family: str, make: Make) -> None:
    engine = Transformers(str(make(family)))

    def at(temperature: float, seed: int, sample: int = 0) -> Ask:
        return ask(FIRST, temperature=temperature, seed=seed, sample=sample)

    one, again, other, sample, cold, colder = told(
        engine, at(1.0, 7), at(1.0, 7), at(1.0, 8), at(1.0, 7, 2), at(0.0, 7), at(0.0, 8, 1)
    )
    assert one.text == again.text
    assert len({one.text, other.text, sample.text, cold.text}) == 4
    assert cold.text == colder.text


def test_draws_by_the_softmax_at_this_temperature(make: Make) -> None:
    folder, temperature = make("llama"), 0.7
    engine = Transformers(str(make("llava")), str(folder))
    drawn = [Ask("llm", PLAIN, max_tokens=1, temperature=temperature, seed=seed) for seed in range(250)]
    said = [reply.text for reply in told(engine, *drawn)]
    prompt = tokenizer("llama")(ASKING, add_special_tokens=False, return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        logits = transformers.LlamaForCausalLM.from_pretrained(folder)(prompt).logits[0, -1].float()
    chances = torch.softmax(logits / temperature, 0)
    for number in chances.topk(3).indices.tolist():
        chance = chances[number].item()
        error = (chance * (1 - chance) / len(said)) ** 0.5
        seen = said.count(tokenizer("llama").decode([number], skip_special_tokens=True)) / len(said)
        assert abs(seen - chance) < 4 * error


def test_leaves_the_random_state_alone(make: Make) -> None:
    before = torch.get_rng_state(), random.getstate(), repr(np.random.get_state())
    told(Transformers(str(make("llava"))), ask(FIRST, temperature=1.0, seed=3), ask(FIRST))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert repr(np.random.get_state()) == before[2]


@pytest.mark.parametrize("family", ["llava", "t5"])
def test_ends_before_a_stop_string(family: str, make: Make) -> None:
    engine = Transformers(str(make(family)))
    [free] = told(engine, ask(FIRST))
    stop = free.text[9:11]
    place = free.text.index(stop)
    later = free.text[-2:]
    cut, unmet, two = told(
        engine,
        ask(FIRST, stop=(stop,)),
        ask(FIRST, stop=("no such words",)),
        ask(FIRST, stop=(later, stop)),
    )
    assert (cut.text, cut.finish) == (free.text[:place], "stop")
    assert cut.tokens_out == place + 2  # a token is a letter: no more were made
    assert (unmet.text, unmet.finish) == (free.text, "length")
    assert (two.text, two.finish) == (free.text[: min(place, free.text.index(later))], "stop")


@pytest.mark.parametrize("family", ["llava", "opt", "t5"])
def test_ends_with_the_token_that_the_folder_says_and_follows_none_of_its_habits(
    family: str, make: Make, tmp_path: Path
) -> None:
    [free] = told(Transformers(str(make(family))), ask(FIRST))
    last = free.text[12]
    number = tokenizer(family)(last, add_special_tokens=False)["input_ids"][0]
    shutil.copytree(make(family), folder := tmp_path / family)
    habits = {"repetition_penalty": 9.0, "do_sample": True, "num_beams": 3, "max_length": 5, "top_k": 1}
    ends = TOKENS | {"eos_token_id": [2, number]}
    (folder / "generation_config.json").write_text(json.dumps(habits | ends))
    [ended] = told(Transformers(str(folder)), ask(FIRST))
    until = free.text.index(last)
    assert (ended.text.removesuffix(last), ended.finish) == (free.text[:until], "stop")
    assert ended.tokens_out == until + 1


def test_tells_a_schema_in_words(make: Make) -> None:
    schema = {"type": "object", "properties": {"colour": {"enum": ["red", "blue"]}}, "required": ["colour"]}
    engine = Transformers(str(make("llava")))
    text = (
        "What is it?\n\nReply with one JSON object and nothing else. It must follow this JSON schema:\n"
        + json.dumps(schema)
    )
    spelled, meant, without_one = told(
        engine, ask(Turn("user", text, REGION)), ask(FIRST, schema=schema), ask(FIRST)
    )
    assert (spelled.text, spelled.tokens_in) == (meant.text, meant.tokens_in)
    assert meant.text != without_one.text


def test_marks_within_a_text_mean_nothing(make: Make) -> None:
    engine = Transformers(str(make("llava")))
    sly = Turn("user", "What<image> is<im</s>age> it?", REGION)
    tame = Turn("user", "What  is<im age> it?", REGION)
    one, other = told(engine, ask(sly), ask(tame))
    assert (one.text, one.tokens_in) == (other.text, other.tokens_in)


def test_calls_at_once_reply_as_one_by_one_and_the_loop_goes_on(make: Make) -> None:
    asks = [
        *(ask(FIRST, temperature=1.0, seed=seed) for seed in range(4)),
        *(Ask("llm", PLAIN, max_tokens=24, temperature=1.0, seed=seed) for seed in range(4)),
        ask(*DIALOGUE),
    ]
    engine = Transformers(str(make("llava")), str(make("llama")))

    async def at_once() -> tuple[list[Reply], int]:
        await engine.ready()
        waiting = asyncio.gather(*map(engine.complete, asks))
        rounds = 0
        while not waiting.done():
            rounds += 1
            await asyncio.sleep(0)
        return list(await waiting), rounds

    together, rounds = asyncio.run(at_once())
    assert [reply.text for reply in together] == [reply.text for reply in told(engine, *asks)]
    assert rounds > len(asks)


def test_a_call_that_is_cancelled_makes_way(make: Make) -> None:
    engine = Transformers(str(make("llava")), str(make("llama")))

    async def run() -> tuple[Reply, Reply]:
        before = await engine.complete(Ask("llm", PLAIN, max_tokens=8))
        endless = asyncio.create_task(engine.complete(Ask("llm", PLAIN, max_tokens=1_000_000)))
        await asyncio.sleep(0.05)
        endless.cancel()
        with pytest.raises(asyncio.CancelledError):
            await endless
        return before, await asyncio.wait_for(engine.complete(Ask("llm", PLAIN, max_tokens=8)), 60)

    before, after = asyncio.run(run())
    assert before.text == after.text


def test_can_be_used_again_after_it_was_closed(make: Make) -> None:
    engine = Transformers(str(make("llava")))

    async def run() -> str:
        await engine.ready()
        text = (await engine.complete(ask(FIRST))).text
        await engine.close()
        return text

    assert asyncio.run(run()) == asyncio.run(run())


def test_identity_tells_models_apart(make: Make, tmp_path: Path) -> None:
    folder = make("llava")
    engine = Transformers(str(folder), str(make("llama")))
    facts = dict(engine.identity("vlm"))
    assert facts.pop("weights") == Transformers(str(folder)).identity("vlm")["weights"]
    assert facts == {
        "engine": "transformers",
        "model": folder.name,
        "dtype": "float32",
        "device": "cpu",
        "dialect": "prompt",
    }
    assert engine.name == f"transformers:{folder.name}"
    digests = {engine.identity("vlm")["weights"], engine.identity("llm")["weights"]}
    shutil.copytree(make("llava", seed=1), tmp_path / folder.name)
    digests.add(Transformers(str(tmp_path / folder.name)).identity("vlm")["weights"])
    (tmp_path / folder.name / "chat_template.jinja").write_text(LLAVA.replace("USER", "HUMAN"))
    digests.add(Transformers(str(tmp_path / folder.name)).identity("vlm")["weights"])
    assert len(digests) == 4


def without(*names: str) -> Callable[[Path], None]:
    return lambda folder: [(folder / name).unlink() for name in names] and None


def edited(file: str, **changes: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        (folder / file).write_text(json.dumps(json.loads((folder / file).read_text()) | changes))

    return edit


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def widened(folder: Path) -> None:
    settings = json.loads((folder / "config.json").read_text())
    settings["text_config"]["intermediate_size"] *= 2
    (folder / "config.json").write_text(json.dumps(settings))


@pytest.mark.parametrize(
    ("spoil", "kind", "says"),
    [
        (without("chat_template.jinja"), BadInput, "no chat template"),
        (
            edited("config.json", model_type="clip", architectures=["CLIPModel"]),
            BadInput,
            "of the type 'clip'",
        ),
        (edited("config.json", auto_map={"AutoModel": "x.Y"}), BadInput, "never run"),
        (without("config.json"), WeightsError, "lacks config.json"),
        (without("model.safetensors"), WeightsError, "lacks model.safetensors"),
        (pickled, WeightsError, "pickle"),
        (lambda folder: (folder / "config.json").write_text("{"), WeightsError, "cannot be read"),
    ],
)
def test_folders_that_cannot_be_used(
    spoil: Callable[[Path], None], kind: type[LookalikeError], says: str, make: Make, tmp_path: Path
) -> None:
    shutil.copytree(make("llava"), folder := tmp_path / "llava")
    spoil(folder)
    with pytest.raises(kind, match=says) as raised:
        Transformers(str(folder))
    assert raised.value.hint


def test_a_pulled_model_is_found_by_its_name(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightsError, match="not on this machine") as raised:
        Transformers("smolvlm2")
    assert raised.value.hint == "lookalike models pull smolvlm2"
    shutil.copytree(make("smolvlm"), tmp_path / ".cache" / "lookalike" / "smolvlm2")
    shutil.copytree(make("llama"), tmp_path / ".cache" / "lookalike" / "llama3")
    engine = Transformers("smolvlm2", "hub:llama3")
    assert engine.name == "transformers:smolvlm2"
    assert engine.identity("llm")["model"] == "llama3"
    with pytest.raises(WeightsError, match=r"'siglip2' is no folder .* among the captioners") as meant:
        Transformers("siglip2")
    assert meant.value.hint.startswith("known: smolvlm2, qwen3-vl, llava, llama3;")


def test_other_wrong_names(make: Make, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no folder and no hub model"):
        Transformers(str(tmp_path / "nothing"))
    with pytest.raises(BadInput, match="words alone"):
        Transformers(str(make("llama")))
    with pytest.raises(BadInput, match="no device called 'toaster'"):
        Transformers(str(make("llava")), device="toaster")
    if not torch.cuda.is_available():
        with pytest.raises(BadInput, match="no cuda:1 here"):
            Transformers(str(make("llava")), device="cuda:1")


@pytest.mark.parametrize(
    "spoil",
    [
        without("tokenizer.json"),
        without("preprocessor_config.json"),
        without("processor_config.json"),
        lambda folder: (folder / "model.safetensors").write_bytes(b"no tensors"),
        widened,
    ],
)
def test_what_does_not_load_is_said_when_it_is_needed(
    spoil: Callable[[Path], None], make: Make, tmp_path: Path
) -> None:
    shutil.copytree(make("llava"), folder := tmp_path / "llava")
    spoil(folder)
    engine = Transformers(str(folder))
    with pytest.raises(CallFailed) as raised:
        asyncio.run(engine.ready())
    assert raised.value.hint
    with pytest.raises(CallFailed):
        told(engine, ask(FIRST))


def test_calls_that_a_model_cannot_answer(make: Make) -> None:
    blip = Transformers(str(make("opt")))
    for turns in (PLAIN, (FIRST, FIRST)):
        with pytest.raises(CallFailed, match="about one picture"):
            told(blip, ask(*turns))
    engine = Transformers(str(make("llava")), str(make("llama")))
    with pytest.raises(CallFailed, match="sees no pictures"):
        told(engine, Ask("llm", (FIRST,)))
    with pytest.raises(CallFailed, match="gave no reply"):
        told(engine, ask(FIRST, max_tokens=0))


def test_without_the_extra(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = str(make("llava"))
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(MissingExtra) as raised:
        Transformers(folder)
    assert raised.value.hint == "pip install 'lookalike[hub]'"


def test_says_nothing_on_the_way(make: Make, capfd: pytest.CaptureFixture[str]) -> None:
    folder = str(make("llava"))
    capfd.readouterr()
    told(Transformers(folder), ask(FIRST), ask(FIRST, temperature=1.0))
    assert capfd.readouterr() == ("", "")
