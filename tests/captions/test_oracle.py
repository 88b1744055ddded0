"""The oracle: what it recognises, what it says, how often it lies, and that it serves real HTTP."""

import base64
import io
import json
import math
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from jsonschema import Draft202012Validator
from PIL import Image

from lookalike import images
from lookalike.captions.posting import picture_bytes
from lookalike.captions.vocabulary import NOT_APPLICABLE, NOT_VISIBLE, Vocabulary
from lookalike.datasets import Labelled, open_dataset
from lookalike.datasets.street2shop import make
from lookalike.testing import drawing
from lookalike.testing.loopback import Fault, Loopback, Say
from lookalike.testing.oracle import Oracle
from lookalike.values import Region

FASHION = Vocabulary.open("fashion")
CLOSED = [attribute.name for attribute in FASHION.attributes if attribute.values]
DESCRIBE = "Describe this image in detail."
ANSWER = {
    "type": "object",
    "properties": {"answer": {"type": "string"}, "status": {"enum": ["ok", "unsure", "not_visible"]}},
    "required": ["answer", "status"],
}


def drawn(folder: Path, identities: int, seed: int) -> list[Labelled]:
    make(folder, identities, seed, workers=1)
    dataset = open_dataset(folder)
    return [each for split in ("train", "validation") for each in dataset.read(split)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("oracle") / "set"


@pytest.fixture(scope="module")
def regions(folder: Path) -> list[Labelled]:
    return drawn(folder, 12, 41)


@pytest.fixture(scope="module")
def honest(regions: list[Labelled]) -> Oracle:
    return Oracle(regions)


@pytest.fixture(scope="module")
def posted(regions: list[Labelled]) -> list[str]:
    return [url(picture_bytes(region_of(labelled))) for labelled in regions]


def region_of(labelled: Labelled) -> Region:
    return Region(images.load(labelled.source), labelled.box)


def url(data: bytes, kind: str = "jpeg") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def encoded(pixels: np.ndarray, kind: str = "JPEG", **options: int) -> bytes:
    held = io.BytesIO()
    Image.fromarray(pixels).save(held, kind, **options)
    return held.getvalue()


def body(text: str, picture: str | None = None, schema: dict | None = None, seed: int = 0) -> dict:
    content: list[dict] = [{"type": "text", "text": text}]
    if picture is not None:
        content.insert(0, {"type": "image_url", "image_url": {"url": picture}})
    asked: dict = {"model": "vlm", "messages": [{"role": "user", "content": content}], "seed": seed}
    if schema is not None:
        asked["response_format"] = {"type": "json_schema", "json_schema": {"name": "r", "schema": schema}}
    return asked


def said(oracle: Oracle, asked: dict) -> str:
    reply = oracle(asked)
    assert isinstance(reply, Say)
    return reply.text


def form(oracle: Oracle, picture: str, seed: int = 0) -> dict:
    return json.loads(said(oracle, body("What do you see?", picture, FASHION.schema(), seed)))


def truth(labelled: Labelled) -> dict[str, str]:
    told = {name.replace(" ", "_"): value for name, value in labelled.attributes.items()}
    return dict.fromkeys(CLOSED, NOT_APPLICABLE) | {"category": labelled.category} | told


def called(attribute: str, value: str) -> str:
    """How the vocabulary says it."""
    return FASHION.claims({attribute: [value]})[0].text


def within(count: int, of: int, rate: float) -> bool:
    """Whether a binomial count lies within five standard deviations."""
    return abs(count - rate * of) <= 5 * math.sqrt(of * rate * (1 - rate))


def test_every_posted_crop_is_recognised(honest: Oracle, posted: list[str]) -> None:
    assert [honest.recognised(each) for each in posted] == list(range(len(posted)))


def test_other_sizes_and_formats_are_recognised(honest: Oracle, regions: list[Labelled]) -> None:
    for place, labelled in enumerate(regions):
        pixels = region_of(labelled).pixels
        height, width = pixels.shape[:2]
        assert honest.recognised(url(encoded(pixels, "PNG"), "png")) == place
        if min(height, width) >= 128:
            small = Image.fromarray(pixels).resize((width // 2, height // 2), Image.Resampling.LANCZOS)
            assert honest.recognised(url(encoded(np.asarray(small), quality=75))) == place


def test_other_products_are_not_recognised(honest: Oracle, tmp_path: Path) -> None:
    others = drawn(tmp_path / "others", 4, 99)
    assert [honest.recognised(url(picture_bytes(region_of(each)))) for each in others] == [None] * len(others)
    blotches = [honest.recognised(url(encoded(drawing(seed)))) for seed in range(20)]
    assert blotches == [None] * 20


def test_a_broken_way_of_the_picture_is_not_recognised(honest: Oracle, regions: list[Labelled]) -> None:
    """Upside down, colours swapped, the whole picture or a shifted crop instead of the region."""
    for labelled in regions:
        region = region_of(labelled)
        pixels = region.pixels
        if min(pixels.shape[:2]) < 64 or pixels.std(axis=(0, 1)).min() < 20:
            continue
        wrong = [pixels[::-1], 255 - pixels, pixels[: len(pixels) // 2]]
        if (
            labelled.box is not None
            and labelled.box.area < 0.8 * region.picture.width * region.picture.height
        ):
            wrong.append(region.picture.pixels)
        assert [honest.recognised(url(encoded(np.ascontiguousarray(each)))) for each in wrong] == [
            None
        ] * len(wrong)


@pytest.mark.parametrize(
    "broken",
    [
        "",
        "data:image/jpeg;base64,",
        "data:image/jpeg;base64,%%%",
        url(b"no picture at all"),
        url(encoded(drawing(1))[:200]),
        "data:text/plain;base64,aGVsbG8=",
        "http://127.0.0.1:9/picture.jpg",
        "file:///etc/hostname",
    ],
)
def test_a_picture_that_cannot_be_read_gets_no_answer(honest: Oracle, broken: str) -> None:
    assert honest.recognised(broken) is None
    assert said(honest, body("What is its main colour?", broken)) == "I do not know."
    assert said(honest, body(DESCRIBE, broken)) == "I do not know."
    told = form(honest, broken)
    assert {told[name] for name in CLOSED} == {NOT_VISIBLE}
    told = json.loads(said(honest, body(DESCRIBE, broken, ANSWER)))
    assert told["status"] == "not_visible"


def test_without_regions_nothing_is_recognised(posted: list[str]) -> None:
    assert Oracle([]).recognised(posted[0]) is None


def test_honest_forms_are_the_annotation(honest: Oracle, regions: list[Labelled], posted: list[str]) -> None:
    check = Draft202012Validator(FASHION.schema())
    met: set[str] = set()
    for labelled, picture in zip(regions, posted, strict=True):
        told = form(honest, picture)
        check.validate(told)
        assert {name: told[name] for name in CLOSED} == truth(labelled)
        assert told["distinguishing"] == []
        met |= {name for name in CLOSED if told[name] != NOT_APPLICABLE}
    assert met == set(CLOSED)  # the set is large enough for every attribute to be seen


@pytest.mark.parametrize(
    ("attribute", "question"),
    [
        ("category", "What type of clothing is shown?"),
        ("category", "Which garment is the person wearing?"),
        ("colour", "Which color does the dress have?"),
        ("second_colour", "Is there a second colour, and which one?"),
        ("second_colour", "Apart from that, what other colors can you see?"),
        ("pattern", "Question: What pattern is on the fabric? Answer:"),
        ("print", "What motif is printed on the chest?"),
        ("neckline", "What shape is the neck?"),
        ("neckline", "What kind of collar does it have?"),
        ("sleeve", "How long are the sleeves?"),
        ("sleeve", "What is the length of its sleeves?"),
        ("length", "How long is the garment?"),
        ("fit", "How tight or loose is it?"),
        ("pockets", "Where are the pockets, and what kind are they?"),
        ("closure", "How is the front fastened?"),
        ("closure", "Which buttons or zips are there?"),
        ("trim", "How are the edges trimmed?"),
        ("fabric", "What material is it made of?"),
        *((each.name, each.question) for each in FASHION.attributes if each.values),
    ],
)
def test_free_questions_are_answered_by_the_annotation(
    honest: Oracle, regions: list[Labelled], posted: list[str], attribute: str, question: str
) -> None:
    for labelled, picture in zip(regions[:25], posted, strict=False):
        told, true = said(honest, body(question, picture)), truth(labelled)[attribute]
        if true == NOT_APPLICABLE:
            assert told == f"It has no {attribute.replace('_', ' ')}."
        else:
            assert called(attribute, true) in told
        answered = json.loads(said(honest, body(question, picture, ANSWER)))
        assert answered == {"answer": told, "status": "ok"}
        other = {"type": "object", "properties": {"value": FASHION.schema()["properties"][attribute]}}
        del other["properties"]["value"]["description"]
        assert json.loads(said(honest, body(question, picture, other))) == {"value": true}


def test_the_last_question_counts(honest: Oracle, regions: list[Labelled], posted: list[str]) -> None:
    asked = body("What is its main colour?", posted[0])
    asked["messages"] += [
        {"role": "assistant", "content": "It is of a colour."},
        {
            "role": "user",
            "content": "Say honestly if you are not sure. Question: What kind of garment is it? Answer:",
        },
    ]
    assert called("category", regions[0].category) in said(honest, asked)


def test_a_description_is_true_and_names_the_garment(
    honest: Oracle, regions: list[Labelled], posted: list[str]
) -> None:
    for labelled, picture in zip(regions, posted, strict=True):
        told, true = said(honest, body(DESCRIBE, picture)), truth(labelled)
        assert f"{called('colour', true['colour'])} {called('category', labelled.category)}." in told
        assert f"It is {called('pattern', true['pattern'])}." in told
        assert f"It is {called('fit', true['fit'])}." in told


@pytest.mark.parametrize(
    "first", ["What product is this? Say its kind, and name its colours, its pattern and its cut."]
)
def test_a_question_about_many_things_gets_a_description(
    honest: Oracle, posted: list[str], first: str
) -> None:
    assert said(honest, body(first, posted[0])) == said(honest, body(DESCRIBE, posted[0]))


def test_its_sentences_are_understood(honest: Oracle, regions: list[Labelled], posted: list[str]) -> None:
    """What the vocabulary hears in them is the value that they are about."""
    for labelled, picture in zip(regions, posted, strict=True):
        for attribute, true in truth(labelled).items():
            told = said(honest, body(FASHION.attribute(attribute).question, picture))
            heard = {(claim.attribute, claim.value) for claim in FASHION.heard(told) if claim.attribute}
            assert heard == ({(attribute, true)} if true != NOT_APPLICABLE else set()), told


def test_questions_about_nothing_known_have_no_answer(honest: Oracle, posted: list[str]) -> None:
    assert said(honest, body("Who made it?", posted[0])) == "I do not know."
    told = json.loads(said(honest, body("Who made it?", posted[0], ANSWER)))
    assert told == {"answer": "I do not know.", "status": "not_visible"}


@pytest.mark.parametrize(
    "asking",
    [
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "r", "schema": FASHION.schema()},
            }
        },
        {"response_format": {"type": "json_object", "schema": FASHION.schema()}},
        {"structured_outputs": {"json": FASHION.schema()}},
        {},
    ],
)
def test_the_schema_is_found_wherever_it_is(
    honest: Oracle, regions: list[Labelled], posted: list[str], asking: dict
) -> None:
    words = "What do you see?"
    if not asking:
        words += f"\nReply with JSON that follows this schema:\n{json.dumps(FASHION.schema())}"
    told = json.loads(said(honest, body(words, posted[0]) | asking))
    assert {name: told[name] for name in CLOSED} == truth(regions[0])


def test_values_that_a_schema_does_not_know_are_not_visible(honest: Oracle, posted: list[str]) -> None:
    odd = {
        "type": "object",
        "properties": {
            "colour": {"enum": ["ultraviolet", NOT_VISIBLE, NOT_APPLICABLE]},
            "category": {"type": "array", "items": {"enum": ["teapot"]}},
            "worn": {"type": "boolean"},
            "notes": {"type": "string"},
            "word": {"enum": ["umber"]},
        },
    }
    told = json.loads(said(honest, body("What is it?", posted[0], odd)))
    assert told == {"colour": NOT_VISIBLE, "category": [], "worn": False, "notes": "", "word": "umber"}
    no_picture = {"type": "object", "properties": {"colour": {"type": "string", "enum": ["umber"]}}}
    assert json.loads(said(honest, body("Say blue.", None, no_picture))) == {"colour": "umber"}


def forms(oracle: Oracle, posted: list[str], seeds: int) -> np.ndarray:
    """What is said: (seed, region, attribute)."""
    told = [[form(oracle, picture, seed) for picture in posted] for seed in range(seeds)]
    return np.array([[[each[name] for name in CLOSED] for each in row] for row in told])


def test_lies_and_abstentions_come_at_their_rates(regions: list[Labelled], posted: list[str]) -> None:
    told = forms(Oracle(regions, lie=0.2, abstain=0.1), posted, 6)
    true = np.array([[truth(each)[name] for name in CLOSED] for each in regions])
    unseen = told == NOT_VISIBLE
    lies = (told != true) & ~unseen
    assert within(int(unseen.sum()), told.size, 0.1)
    assert within(int(lies.sum()), int((~unseen).sum()), 0.2)
    assert not np.isin(told[lies], [NOT_APPLICABLE]).any()


def test_a_liar_never_tells_the_truth(regions: list[Labelled], posted: list[str]) -> None:
    told = forms(Oracle(regions, lie=1.0), posted, 2)
    true = np.array([[truth(each)[name] for name in CLOSED] for each in regions])
    assert not (told == true).any()
    assert not np.isin(told, [NOT_VISIBLE, NOT_APPLICABLE]).any()
    assert len(np.unique(told[..., CLOSED.index("colour")])) > 5  # not always the same lie


def test_who_always_abstains_says_nothing(regions: list[Labelled], posted: list[str]) -> None:
    oracle = Oracle(regions, lie=0.5, abstain=1.0)
    assert (forms(oracle, posted[:5], 2) == NOT_VISIBLE).all()
    assert said(oracle, body("What is its main colour?", posted[0])) == "I am not sure."
    told = json.loads(said(oracle, body("What is its main colour?", posted[0], ANSWER)))
    assert told["status"] in ("unsure", "not_visible")
    assert said(oracle, body(DESCRIBE, posted[0])) == "The picture shows a garment."


def test_the_same_ask_gets_the_same_answer(regions: list[Labelled], posted: list[str]) -> None:
    first, again = (Oracle(regions, lie=0.4, abstain=0.2, seed=3) for _ in range(2))
    there = [form(first, picture) for picture in posted]
    back = [form(again, picture) for picture in reversed(posted)]
    assert there == back[::-1]
    other = Oracle(regions, lie=0.4, abstain=0.2, seed=4)
    assert there != [form(other, picture) for picture in posted]


def test_other_words_do_not_change_a_lie(regions: list[Labelled], posted: list[str]) -> None:
    oracle = Oracle(regions, lie=0.5)
    for picture in posted:
        told = form(oracle, picture)
        fabric = called("fabric", told["fabric"])
        assert said(oracle, body("What material is it made of?", picture)) == f"It is {fabric}."
        garment = f"{called('colour', told['colour'])} {called('category', told['category'])}."
        assert garment in said(oracle, body(DESCRIBE, picture))


def test_samples_and_pictures_are_independent(regions: list[Labelled], posted: list[str]) -> None:
    """Two draws that have nothing to do with each other are both lies at the square of the rate."""
    told = forms(Oracle(regions, lie=0.3), posted, 8)
    true = np.array([[truth(each)[name] for name in CLOSED] for each in regions])
    lies = told != true
    samples = lies[0::2] & lies[1::2]
    pictures = lies[:, 0:-1:2] & lies[:, 1::2][:, : lies[:, 0:-1:2].shape[1]]
    attributes = lies[..., 0:-1:2] & lies[..., 1::2]
    for pairs in (samples, pictures, attributes):
        assert within(int(pairs.sum()), pairs.size, 0.09)


def test_errors_come_at_their_rate_and_pass(regions: list[Labelled], posted: list[str]) -> None:
    oracle = Oracle(regions, error=0.3)
    replies = [oracle(body("Who made it?", posted[0])) for _ in range(400)]
    faults = [reply for reply in replies if isinstance(reply, Fault)]
    assert {(fault.kind, fault.status) for fault in faults} == {("status", 500)}
    assert within(len(faults), len(replies), 0.3)


def talk(answers: list[tuple[str, str]], last: str) -> list[dict]:
    messages = [
        {"role": "system", "content": "Ask about the picture. Avoid asking yes/no questions."},
        {"role": "user", "content": "There is a picture."},
    ]
    for question, answer in answers:
        messages += [
            {"role": "assistant", "content": f"Question: {question}"},
            {"role": "user", "content": f"Answer: {answer}"},
        ]
    messages[-1] = messages[-1] | {"content": f"{messages[-1]['content']}\n{last}"}
    return messages


def test_a_whole_dialogue_asks_everything_once_and_ends(regions: list[Labelled], posted: list[str]) -> None:
    oracle = Oracle(regions, abstain=0.2)
    for place in range(0, len(regions), 7):
        told: list[tuple[str, str]] = []
        question = DESCRIBE
        while len(told) < 30 and question != "What else is there to see?":
            told.append((question, said(oracle, body(question, posted[place]))))
            asked = {"model": "llm", "messages": talk(told, "Ask the next question.")}
            question = said(oracle, asked)
        described = ("colour", "category", "pattern", "fit")
        assert [question for question, _ in told[1:]] == [
            FASHION.attribute(name).question for name in CLOSED if name not in described
        ]
        summary = said(oracle, {"model": "llm", "messages": talk(told, "Now summarise what you know.")})
        known = [answer for _, answer in told if answer != "I am not sure."]
        assert summary == " ".join(known)
        assert len(known) < len(told) or place


def test_it_asks_what_the_turn_names(honest: Oracle) -> None:
    told = [(DESCRIBE, "The picture shows a red vest.")]
    last = "Not known yet: second colour, pockets. Ask one question."
    question = said(honest, {"model": "llm", "messages": talk(told, last)})
    assert question == FASHION.attribute("second_colour").question
    question = said(honest, {"model": "llm", "messages": talk([*told, (question, "It has none.")], last)})
    assert question == FASHION.attribute("pockets").question


def test_nothing_known_is_no_summary(honest: Oracle) -> None:
    told = [("What is its fit?", "I am not sure."), ("What fabric is it?", "That is not visible.")]
    asked = {"model": "llm", "messages": talk(told, "Summarize the answers.")}
    assert said(honest, asked) == "I do not know."


def test_lists_of_questions_name_the_first_that_lack(honest: Oracle) -> None:
    def asked(names: list[str], most: int) -> list[dict]:
        item = {
            "type": "object",
            "properties": {"attribute": {"enum": names}, "question": {"type": "string", "maxLength": 200}},
            "required": ["attribute", "question"],
        }
        listing = {"type": "array", "items": item, "maxItems": most}
        schema = {"type": "object", "properties": {"questions": listing}, "required": ["questions"]}
        words = "Known: colour: red.\n" + "\n".join(
            f"- {name}: {FASHION.attribute(name).question}" for name in names
        )
        told = json.loads(said(honest, body(words, None, schema)))
        Draft202012Validator(schema).validate(told)
        return told["questions"]

    some = ["trim", "closure", "fabric", "pockets", "neckline"]
    chosen = asked(some, 3)
    assert [each["attribute"] for each in chosen] == some[:3]
    assert [each["question"] for each in chosen] == [
        FASHION.attribute(each["attribute"]).question for each in chosen
    ]
    assert [each["attribute"] for each in asked(["trim"], 3)] == ["trim"]
    assert len(asked(some, 2)) == 2


def test_a_question_may_be_asked_for_by_schema(honest: Oracle) -> None:
    schema = {
        "type": "object",
        "properties": {"attribute": {"type": "string"}, "question": {"type": "string"}},
    }
    first = CLOSED[0]
    told = json.loads(said(honest, body("Ask.", None, schema)))
    assert told == {"attribute": first, "question": FASHION.attribute(first).question}


def post(address: str, asked: dict) -> dict:
    request = urllib.request.Request(
        f"{address}/chat/completions", json.dumps(asked).encode(), {"Content-Type": "application/json"}
    )
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(request, timeout=20) as response:
        return json.load(response)


def test_served_over_http(honest: Oracle, regions: list[Labelled], posted: list[str]) -> None:
    with Loopback(honest) as server:
        for labelled, picture in zip(regions[:5], posted, strict=False):
            told = post(server.url, body("What do you see?", picture, FASHION.schema()))
            content = json.loads(told["choices"][0]["message"]["content"])
            assert {name: content[name] for name in CLOSED} == truth(labelled)
    with Loopback(Oracle(regions[:1], error=1.0)) as server:
        with pytest.raises(urllib.error.HTTPError) as caught:
            post(server.url, body("What do you see?", posted[0]))
        assert caught.value.code == 500
        caught.value.close()


def test_served_by_a_process(folder: Path, regions: list[Labelled], posted: list[str]) -> None:
    command = [sys.executable, "-m", "lookalike.testing.oracle", str(folder), "--split", "validation"]
    place = next(place for place, each in enumerate(regions) if "/validation/" in each.source)
    with subprocess.Popen(
        [*command, "--lie", "0", "--delay", "0.01", "--limit", "50"], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().strip()
            told = post(address, body(DESCRIBE, posted[place]))
            garment = called("category", regions[place].category)
            assert garment in told["choices"][0]["message"]["content"]
            told = post(address, body(DESCRIBE, posted[0]))  # of the other split
            assert told["choices"][0]["message"]["content"] == "I do not know."
        finally:
            process.terminate()


def test_a_process_without_a_data_set_says_so(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lookalike.testing.oracle", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (1, "")
    assert "no labelled data set here" in done.stderr
