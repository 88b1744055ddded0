"""What captions say against an annotation: counted by hand, and of an oracle that lies as it is told to."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lookalike.captions import Cache, Desk, ModelCaptioner, Pace, Record, Server, Vocabulary
from lookalike.captions.records import FileCaptions, read
from lookalike.captions.vocabulary import NOT_VISIBLE
from lookalike.datasets import Dataset, Labelled, Side, Unlisted, open_dataset
from lookalike.datasets.street2shop import make
from lookalike.errors import BadInput
from lookalike.evaluation.captioning.accuracy import Measured, Sample, measure, truth
from lookalike.evaluation.captioning.accuracy_report import tables
from lookalike.testing import ThumbnailEncoder, drawing
from lookalike.testing.loopback import Fault, Loopback, Say
from lookalike.testing.oracle import Oracle
from lookalike.values import Caption, Claim, Floats, Region

FASHION = Vocabulary.open("fashion")
SHIRT = {"colour": "navy", "neckline": "V-neck", "second colour": "white"}
TROUSERS = {"colour": "black"}


def labelled(path: Path, name: str, category: str, attributes: dict[str, str]) -> Labelled:
    return Labelled(name, str(path), Side.BOTH, None, name, category=category, attributes=attributes)


@pytest.fixture
def regions(tmp_path: Path) -> list[Labelled]:
    """A shirt and trousers; only the shirt has a neckline and a second colour."""
    for seed, name in enumerate(("shirt", "trousers")):
        Image.fromarray(drawing(seed)).save(tmp_path / f"{name}.png")
    return [
        labelled(tmp_path / "shirt.png", "shirt", "long sleeve top", SHIRT),
        labelled(tmp_path / "trousers.png", "trousers", "trousers", TROUSERS),
    ]


def dataset(entries: Sequence[Labelled | Unlisted]) -> Dataset:
    return Dataset("two", Path(), ("all",), lambda split: iter(entries))


class Dictated:
    """A captioner that says of each picture what it is told to."""

    name = "dictated"

    def __init__(self, said: dict[str, Caption]) -> None:
        self._said = said

    def captions(self, regions: Sequence[Region]) -> list[Caption]:
        return [self._said[Path(region.picture.source).stem] for region in regions]


def says(*claims: tuple[str, str, dict[str, float]]) -> Caption:
    made = [Claim(value, name, value, support) for name, value, support in claims]
    return Caption(
        "it says",
        "dictated",
        claims=tuple(
            Claim(each.text, each.attribute, each.value, each.support, each.confidence >= 0.5)
            for each in made
        ),
    )


def measured(regions: Sequence[Labelled], said: dict[str, Caption]) -> Measured:
    return measure(Sample.of(dataset(regions), "all", FASHION), Dictated(said))


def test_claims_are_counted_as_by_hand(regions: list[Labelled]) -> None:
    found = measured(
        regions,
        {
            "shirt": says(
                ("category", "long sleeve top", {}),
                ("colour", "navy", {"pixels": 0.9}),
                ("second_colour", "black", {"pixels": 0.2}),  # false, and not believed
                ("fit", "slim", {}),  # about nothing that is annotated
            ),
            "trousers": says(
                ("category", "trousers", {"samples": 0.4, "pixels": 0.9}),  # right, and not believed
                ("neckline", "V-neck", {}),  # the trousers have none: false
            ),
        },
    )
    assert (found.captions, found.failed, found.claims, found.believed) == (2, {}, 3.0, 2.0)
    said = found.said
    # annotated: category, colour, neckline, second_colour of the shirt; category and colour of the trousers
    assert (said.coverage.n, said.coverage.mean) == (6, 4 / 6)
    assert (said.accuracy.n, said.accuracy.mean) == (5, 3 / 5)
    assert said.believed_coverage.mean == 2 / 6
    assert (said.believed_accuracy.n, said.believed_accuracy.mean) == (3, 2 / 3)
    assert said.coverage.groups == 2  # pictures
    assert found.by_attribute["neckline"].coverage.mean == 0.0
    assert found.by_attribute["neckline"].accuracy.mean == 0.0
    assert found.by_attribute["second_colour"].believed_accuracy.n == 0
    assert set(found.by_attribute) == {"category", "colour", "second_colour", "neckline"}
    assert found.true_confidence == pytest.approx((1 + 0.9 + 0.4) / 3)
    assert found.false_confidence == pytest.approx((0.2 + 1) / 2)


def test_each_check_is_judged_alone_and_all_together(regions: list[Labelled]) -> None:
    found = measured(
        regions,
        {
            "shirt": says(
                ("colour", "red", {"pixels": 0.1, "samples": 1.0}),  # false; the pixels see it
                ("neckline", "hood", {"samples": 0.3}),  # false; the samples do
                ("category", "long sleeve top", {"pixels": 0.4, "samples": 1.0}),  # right
            ),
            "trousers": says(("colour", "black", {}), ("category", "skirt", {})),  # right; false
        },
    )
    checks = {check.name: check for check in found.checks}
    assert list(checks) == ["all", "pixels", "samples"]
    assert [check.asked for check in checks.values()] == [3, 2, 3]
    passed = [check.false_passed.mean for check in checks.values()]
    assert passed == pytest.approx([1 / 3, 2 / 3, 2 / 3])  # the skirt nobody checked
    stopped = [check.true_stopped.mean for check in checks.values()]
    assert stopped == pytest.approx([1 / 2, 1 / 2, 0])
    assert checks["pixels"].asked_false_passed.mean == 0.0
    assert checks["pixels"].asked_true_stopped.mean == 1.0
    assert checks["samples"].asked_false_passed.mean == 0.5


def test_a_failed_caption_covers_nothing_and_an_unread_picture_is_told(regions: list[Labelled]) -> None:
    gone = labelled(Path(regions[0].source).with_name("gone.png"), "gone", "skirt", TROUSERS)
    said = {
        "shirt": Caption("", "dictated", error="refused: 'I cannot help with that'"),
        "trousers": says(("colour", "black", {})),
    }
    found = measured([*regions, gone], said)
    assert found.failed == {"refused": 1, "unread": 1}
    assert found.captions == 3
    assert found.said.coverage.mean == 1 / 6
    assert found.said.accuracy.mean == 1.0


def test_a_text_without_claims_is_heard(regions: list[Labelled], tmp_path: Path) -> None:
    table = tmp_path / "captions.csv"
    table.write_text("path,caption\nshirt.png,a navy top with a V-neck\ntrousers.png,green trousers\n")
    found = measure(Sample.of(dataset(regions), "all", FASHION), FileCaptions(table))
    assert found.by_attribute["neckline"].accuracy.mean == 1.0
    assert found.by_attribute["colour"].accuracy.mean == 0.5
    assert found.cost.calls == 0


class Agreeing(ThumbnailEncoder):
    """A stand-in for an encoder with a guard, which agrees with what names no red."""

    guard = 0.2

    def agreement(self, regions: Sequence[Region], texts: Sequence[str]) -> Floats:
        return np.array([0.1 if "red" in text else 0.25 for text in texts], np.float32)


def test_an_encoder_with_a_guard_is_one_more_check(regions: list[Labelled]) -> None:
    sample = Sample.of(dataset(regions), "all", FASHION)
    said = {
        "shirt": says(("colour", "navy", {})),
        "trousers": says(("colour", "red", {"pixels": 0.9})),
    }
    kept: list[Record] = []
    found = measure(sample, Dictated(said), encoder=Agreeing(), on_record=kept.append)
    checks = {check.name: check for check in found.checks}
    assert list(checks) == ["all", "agreement", "pixels"]
    assert (checks["pixels"].false_passed.mean, checks["agreement"].false_passed.mean) == (1.0, 0.0)
    assert found.said.believed_accuracy.mean == 1.0
    assert {record.item: len(record.caption.attributes) for record in kept} == {"shirt": 1, "trousers": 0}
    with pytest.raises(BadInput, match="no guard"):
        measure(sample, Dictated(said), encoder=ThumbnailEncoder())


def test_a_sample_is_the_first_regions_or_drawn(regions: list[Labelled]) -> None:
    many = [labelled(Path("x.png"), f"{number}", "skirt", TROUSERS) for number in range(50)]
    data = dataset([Unlisted("broken", "no picture"), *many])
    first = Sample.of(data, "all", FASHION, first=5)
    assert [region.id for region in first.regions] == ["0", "1", "2", "3", "4"]
    assert (first.left_out, first.pictures, first.attributes) == (1, 1, ("category", "colour"))
    drawn = [[r.id for r in Sample.of(data, "all", FASHION, 5, seed).regions] for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert drawn[0] == sorted(drawn[0], key=int)
    assert len(Sample.of(data, "all", FASHION, 99, 1).regions) == 50
    with pytest.raises(BadInput, match="annotates nothing"):
        Sample.of(dataset([labelled(Path("x.png"), "0", "", {"ply": "two"})]), "all", FASHION)


def test_a_table_may_annotate_several_values() -> None:
    region = labelled(Path("x.png"), "0", "", {"second colour": "red, white"})
    assert truth(region) == {"second_colour": {"red", "white"}}


# With a server that is asked over HTTP


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn") / "set"
    make(folder, 12, 41, workers=1)
    return folder


@pytest.fixture(scope="module")
def drawn(folder: Path) -> Sample:
    return Sample.of(open_dataset(folder), "train", FASHION, first=20)


def asked(
    sample: Sample,
    server: Loopback,
    cache: Path | None = None,
    samples: int = 1,
    strategy: str = "attributes",
) -> Measured:
    desk = Desk(Server(server.url, "vlm", "llm"), Cache(cache), Pace(attempts=1, budget=1.0))
    with ModelCaptioner(desk, strategy, samples=samples) as captioner:
        return measure(sample, captioner, width=4)


def test_what_an_honest_oracle_says_is_all_right(drawn: Sample) -> None:
    with Loopback(Oracle(drawn.regions)) as server:
        found = asked(drawn, server)
    assert found.said.coverage.mean == 1.0
    assert found.said.accuracy.mean == 1.0
    assert found.cost.calls == 1.0
    assert found.cost.made == found.cost.timed == 20
    assert np.isnan(found.cost.first_s)  # not streamed
    assert 0 < found.cost.p50_s <= found.cost.p95_s <= found.cost.all_s


def test_lies_lower_the_accuracy_and_samples_find_them_out(drawn: Sample) -> None:
    accuracies = []
    for lie in (0.0, 0.3, 1.0):
        with Loopback(Oracle(drawn.regions, lie=lie)) as server:
            found = asked(drawn, server, samples=3)
        accuracies.append(found.said.accuracy.mean)
        if lie == 0.3:
            checks = {check.name: check for check in found.checks}
            assert checks["samples"].false_passed.mean < 0.5 > checks["samples"].true_stopped.mean
            assert found.said.believed_accuracy.mean > found.said.accuracy.mean
            assert found.false_confidence < found.true_confidence
    assert accuracies[0] == 1.0 > accuracies[1] > accuracies[2] == 0.0


def test_a_rerun_out_of_the_cache_costs_the_same_and_is_not_timed(drawn: Sample, tmp_path: Path) -> None:
    with Loopback(Oracle(drawn.regions, abstain=0.2)) as server:
        first = asked(drawn, server, tmp_path / "cache", strategy="targeted")
        calls = server.requests
        again = asked(drawn, server, tmp_path / "cache", strategy="targeted")
        assert server.requests <= calls + 2  # to find the dialect, a call for each model
    for what in ("calls", "tokens_in", "tokens_out"):
        assert getattr(again.cost, what) == getattr(first.cost, what) > 0
    assert again.said == first.said
    assert (again.cost.made, again.cost.timed) == (0, 0)
    assert np.isnan([again.cost.p50_s, again.cost.p95_s, again.cost.all_s]).all()
    assert again.cost.cached == first.cost.made + first.cost.cached


def test_failures_are_told_by_kind(drawn: Sample) -> None:
    def refuses(body: dict) -> Say | Fault:
        return Fault("refusal")

    def sees_nothing(body: dict) -> Say:
        names = [each.name for each in FASHION.attributes if not each.several]
        lists = {each.name: [] for each in FASHION.attributes if each.several}
        return Say(json.dumps(dict.fromkeys(names, NOT_VISIBLE) | lists))

    with Loopback(refuses) as server:
        assert asked(drawn, server).failed == {"refused": 20}
    with Loopback(sees_nothing) as server:
        found = asked(drawn, server)
    assert found.failed == {"not_visible": 20}
    assert found.faults == {}
    with Loopback(Oracle(drawn.regions, error=0.5)) as server:
        found = asked(drawn, server)
    assert found.failed["failed"] == found.faults["failed"] > 0


def test_figures_are_plain_json_and_tables_hold_a_row_for_each_way(regions: list[Labelled]) -> None:
    failed = Caption("", "dictated", error="the file has no caption for it")
    nothing = measured(regions, dict.fromkeys(("shirt", "trousers"), failed))
    some = measured(regions, {"shirt": says(("colour", "navy", {})), "trousers": failed})
    document = json.loads(json.dumps(nothing.as_json(), allow_nan=False))
    assert document["said"]["accuracy"]["mean"] is None
    assert document["failed"] == {"failed": 2}
    told = list(tables({"a": nothing, "b": some}, at_once=8, prices=(1.0, 2.0)))
    assert all(len(row) == len(table.headings) for table in told for row in table.rows)
    assert [row[0] for row in told[0].rows] == ["a", "b"]
    assert told[0].rows[0][2] == "2 (failed 2)"
    assert told[0].rows[0][6] == "–"
    assert told[3].rows[1] == ("colour", "2", "0.00 – –", "0.50 1.00 1.00")


# As a user types it


def bench(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lookalike", "bench", "captions", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_command_tells_who_was_asked_and_keeps_figures_and_captions(folder: Path, tmp_path: Path) -> None:
    regions = Sample.of(open_dataset(folder), "validation", FASHION).regions
    with Loopback(Oracle(regions)) as server:
        options = ("--captioner", f"openai:{server.url}", "--vlm", "vlm", "--llm", "llm", "--first", 4)
        kept = ("--cache", tmp_path / "cache", "--out", tmp_path / "out", "--price", "1,2")
        done = bench(folder, *options, *kept, "--strategy", "attributes", "--strategy", "dialogue")
        assert done.returncode == 0, done.stderr
        again = bench(folder, *options, *kept, "--strategy", "attributes", "--prompt", "all", "--json")
    for said in (
        "validation",
        "4 regions",
        "fashion:",
        server.url,
        "vlm vlm (json_schema)",
        "dialogue/2",
        "money",
    ):
        assert said in done.stdout
    document = json.loads(again.stdout)
    assert document == json.loads((tmp_path / "out" / "figures.json").read_text())
    assert list(document["ways"]) == ["attributes/1", "attributes/2", "attributes/3"]
    assert document["ways"]["attributes/3"]["cost"]["made"] == 0
    assert document["models"]["llm"]["dialect"] == "json_schema"
    records = list(read(tmp_path / "out" / "captions-attributes-3.jsonl"))
    assert {record.item for record in records} == {region.id for region in regions[:4]}


def test_the_command_measures_the_palette_and_refuses_wrong_names(folder: Path) -> None:
    done = bench(folder, "--first", 6, "--json")
    document = json.loads(done.stdout)
    assert list(document["ways"]) == ["palette"]
    assert document["ways"]["palette"]["by_attribute"]["fit"]["coverage"]["mean"] == 0
    assert document["ways"]["palette"]["by_attribute"]["colour"]["coverage"]["mean"] > 0
    assert document["models"] == {}
    wrong = bench(
        folder, "--captioner", "openai:http://127.0.0.1:9/v1", "--vlm", "vlm", "--strategy", "atributes"
    )
    assert wrong.returncode == 1
    assert "attributes" in wrong.stderr and "Traceback" not in wrong.stderr
