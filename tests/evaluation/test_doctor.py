"""The data doctor: what is planted is found, once and under its name; what is sound stays unmentioned."""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import lookalike
from lookalike.catalogue import Catalogue
from lookalike.datasets import Dataset, Labelled, Side, Unlisted
from lookalike.datasets.garments import generated_garments
from lookalike.datasets.photos import write_table
from lookalike.errors import BadInput, WrongEncoder
from lookalike.evaluation.doctor import examine_catalogue, examine_dataset
from lookalike.evaluation.doctor.diagnosis import KINDS, SEVERITIES, SHOWN, Diagnosis, Finding, draw_findings
from lookalike.server.access import Keys
from lookalike.settings import Settings
from lookalike.testing import ThumbnailEncoder, drawing
from lookalike.values import Box, Pixels

IDENTITIES = 14  # of each split: enough regions in all to tell unlike pairs
Records = dict[str, list[Labelled | Unlisted]]


def save(pixels: Pixels, path: Path, **options: int) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **{"compress_level": 1} | options)
    return str(path)


@cache
def view_of(seed: int, number: int) -> Pixels:
    """A photograph of thing `seed`: like its other photographs, yet not the same picture."""
    mixed = 0.75 * drawing(seed).astype(float) + 0.25 * drawing(10_000 * number + seed)
    return mixed.astype(np.uint8)


@pytest.fixture
def records(tmp_path: Path) -> Records:
    """A sound data set: two splits, every identity with a query and a gallery region."""
    made: Records = {}
    for first, split in enumerate(("train", "test")):
        made[split] = []
        for number in range(IDENTITIES):
            for side, part in ((Side.QUERY, 1), (Side.GALLERY, 2)):
                name = f"{side}-{number:02}"
                pixels = view_of(1 + first * 100 + number, part)
                source = save(pixels, tmp_path / "set" / split / f"{name}.png")
                group = f"{split}/{number}"
                made[split].append(
                    Labelled(name, source, side, f"{group}/1", group, Box(2, 2, 90, 120), "dress")
                )
    return made


def labelled(records: Records, split: str, place: int) -> Labelled:
    record = records[split][place]
    assert isinstance(record, Labelled)
    return record


def examine(records: Records, tmp_path: Path, **options: object) -> Diagnosis:
    dataset = Dataset("drawn", tmp_path / "set", tuple(records), lambda split: iter(records[split]))
    return examine_dataset(dataset, **{"encoder": ThumbnailEncoder()} | options)  # type: ignore[arg-type]


def only(diagnosis: Diagnosis) -> Finding:
    """The one thing that was found."""
    [finding] = diagnosis.findings
    return finding


def ids(finding: Finding) -> list[str]:
    return [place.id for place in finding.places]


def test_a_sound_set_has_no_findings_and_its_counts_are_told(records: Records, tmp_path: Path) -> None:
    diagnosis = examine(records, tmp_path)
    assert diagnosis.findings == ()
    assert diagnosis.sound
    assert diagnosis.facts["regions"] == diagnosis.facts["pictures"] == 4 * IDENTITIES
    assert diagnosis.facts["identities"] == diagnosis.facts["groups"] == 2 * IDENTITIES
    assert diagnosis.facts["regions per identity"] == {"least": 2, "median": 2, "most": 2}
    assert diagnosis.facts["splits"]["test"] == {
        "regions": 2 * IDENTITIES, "query": IDENTITIES, "gallery": IDENTITIES, "without identity": 0,
    }  # fmt: skip
    assert next(diagnosis.lines()).endswith("nothing found")


def test_only_the_splits_that_are_named_are_read(records: Records, tmp_path: Path) -> None:
    records["train"] = [Unlisted("a.json", "a.json: broken")]
    assert examine(records, tmp_path, splits=["test"]).sound
    assert not examine(records, tmp_path, splits=["train"]).sound


def test_a_record_that_cannot_be_used_is_told_as_the_reader_tells_it(
    records: Records, tmp_path: Path
) -> None:
    records["test"].append(Unlisted("000001.json", "000001.json: item1.style: missing"))
    finding = only(examine(records, tmp_path))
    assert (finding.kind, finding.severity) == ("unusable record", "error")
    assert finding.message == "000001.json: item1.style: missing"


def test_two_regions_with_one_id_are_an_error_in_one_split_and_none_in_two(
    records: Records, tmp_path: Path
) -> None:
    first, last = labelled(records, "test", 0), labelled(records, "test", -1)
    records["test"].append(replace(last, id=first.id))
    finding = only(examine(records, tmp_path))
    assert finding.kind == "duplicate id"
    assert ids(finding) == ["test/query-00", "test/query-00"]
    assert [place.path for place in finding.places] == [first.source, last.source]


def test_pictures_that_are_missing_or_broken_are_errors(records: Records, tmp_path: Path) -> None:
    Path(labelled(records, "test", 0).source).unlink()
    Path(labelled(records, "train", 1).source).write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    diagnosis = examine(records, tmp_path)
    found = {finding.kind: ids(finding) for finding in diagnosis.findings}
    assert found == {"missing picture": ["test/query-00"], "broken picture": ["train/gallery-00"]}
    assert not diagnosis.sound


def test_boxes_that_cannot_be(records: Records, tmp_path: Path) -> None:
    boxes = {  # of pictures that are 96 x 128
        "box outside the picture": Box(200, 200, 300, 300),
        "box partly outside the picture": Box(2, 2, 110, 120),
        "tiny box": Box(20, 20, 27, 60),
    }
    for place, box in enumerate(boxes.values()):
        records["test"][place] = replace(labelled(records, "test", 2 * place), box=box)
    records["test"][3:] = []
    records["test"].append(replace(labelled(records, "train", 0), id="edge", box=Box(0, 0, 96.5, 128)))
    records["test"][3] = replace(
        labelled(records, "test", 3), source=save(drawing(77), tmp_path / "edge.png")
    )
    records["test"] = [replace(labelled(records, "test", n), identity=None, group=str(n)) for n in range(4)]
    diagnosis = examine(records, tmp_path)
    places = {finding.kind: finding.places for finding in diagnosis.findings}
    assert {kind: place.box for kind, (place,) in places.items()} == boxes


def test_a_box_of_less_than_a_thousandth_of_a_picture_is_tiny(records: Records, tmp_path: Path) -> None:
    source = save(np.asarray(Image.fromarray(drawing(5)).resize((600, 600))), tmp_path / "large.png")
    some = replace(labelled(records, "test", 0), source=source, identity=None)
    records["test"] += [
        replace(some, id="small", box=Box(100, 100, 117, 117)),
        replace(some, id="enough", box=Box(100, 100, 120, 120)),
    ]
    finding = only(examine(records, tmp_path))
    assert (finding.kind, ids(finding)) == ("tiny box", ["test/small"])


@pytest.mark.parametrize("saved", ["copied", "smaller", "as JPEG"])
def test_one_picture_under_two_identities_is_found_however_it_was_saved(
    saved: str, records: Records, tmp_path: Path
) -> None:
    original = labelled(records, "test", 1)
    records["test"].append(replace(original, id="copy", source=copied(original, saved), identity="test/99/1"))
    records["test"][-1] = fitted(labelled(records, "test", -1), original)
    records["test"].append(query_for(records, tmp_path, "test/99/1"))
    finding = only(examine(records, tmp_path))
    assert (finding.kind, finding.severity) == ("one picture, two identities", "error")
    assert set(ids(finding)) == {"test/gallery-00", "test/copy"}
    assert "test/0/1" in finding.message and "test/99/1" in finding.message
    assert finding.score is not None and finding.score > 0.95


def copied(original: Labelled, saved: str) -> str:
    path = Path(original.source)
    with Image.open(path) as picture:
        pixels = np.asarray(picture)
        match saved:
            case "copied":
                (path.parent / "copy.png").write_bytes(path.read_bytes())
                return str(path.parent / "copy.png")
            case "smaller":
                return save(np.asarray(picture.resize((48, 64))), path.parent / "copy.png")
            case _:
                return save(pixels, path.parent / "copy.jpg", quality=75)


def fitted(copy: Labelled, original: Labelled) -> Labelled:
    """With the box where it is in a copy of another size."""
    with Image.open(copy.source) as ours, Image.open(original.source) as theirs:
        scale = ours.width / theirs.width
    assert original.box is not None
    return replace(copy, box=original.box.scaled(scale, scale))


def query_for(records: Records, tmp_path: Path, identity: str) -> Labelled:
    """A query that the identity's gallery region answers."""
    source = save(view_of(1 + 100, 3), tmp_path / "another.png")
    return replace(labelled(records, "test", 0), id="asked", source=source, identity=identity)


def test_two_products_in_one_picture_are_no_conflict(records: Records, tmp_path: Path) -> None:
    for place in (0, 1):
        left = labelled(records, "test", place)
        records["test"][place] = replace(left, box=Box(0, 0, 50, 128))
        right = replace(left, id=f"{left.id}-right", identity="test/0/2", box=Box(46, 0, 96, 128))
        records["test"].append(right)
    assert examine(records, tmp_path).findings == ()


def test_what_looks_the_same_but_is_another_picture_is_a_warning(records: Records, tmp_path: Path) -> None:
    original = labelled(records, "test", 1)
    with Image.open(original.source) as picture:
        pixels = np.array(picture)
    pixels[60:68, 40:48] = 255 - pixels[60:68, 40:48]  # a small print
    source = save(pixels, tmp_path / "printed.png")
    records["test"].append(replace(original, id="printed", source=source, identity="test/0/2"))
    asked = replace(query_for(records, tmp_path, "test/0/2"))
    records["test"].append(asked)
    finding = only(examine(records, tmp_path))
    assert (finding.kind, finding.severity) == ("almost the same, two identities", "warning")
    assert set(ids(finding)) == {"test/gallery-00", "test/printed"}


@pytest.mark.parametrize("saved", ["copied", "as JPEG"])
@pytest.mark.parametrize("same_group", [True, False])
def test_one_picture_in_two_splits_is_leakage(
    saved: str, same_group: bool, records: Records, tmp_path: Path
) -> None:
    original = labelled(records, "train", 1)
    copy = replace(original, id="copy", source=copied(original, saved), identity=None)
    records["test"].append(copy if same_group else replace(copy, group="test/0"))
    diagnosis = examine(records, tmp_path)
    kinds = [finding.kind for finding in diagnosis.findings]
    assert kinds == ["picture in two splits", *["group in two splits"] * same_group]
    leak = diagnosis.findings[0]
    assert set(ids(leak)) == {"train/gallery-00", "test/copy"}
    assert ("of the same group" in leak.message) is same_group
    assert leak.severity == "error"


def test_splits_that_overlap_by_design_are_no_leakage(records: Records, tmp_path: Path) -> None:
    half = IDENTITIES
    records |= {"training": records["train"][:half], "tuning": records["train"][half:]}
    diagnosis = examine(records, tmp_path)
    assert diagnosis.findings == ()
    assert set(diagnosis.facts["splits"]) == {"training", "tuning", "test"}
    shared = [replace(labelled(records, "test", n), side=Side.GALLERY) for n in (0, 1)]
    both: Records = {"public": [*shared, *records["train"]], "private": [*shared, *records["test"][2:]]}
    assert "picture in two splits" not in {finding.kind for finding in examine(both, tmp_path).findings}


def test_parts_of_a_split_are_compared_with_each_other(records: Records, tmp_path: Path) -> None:
    half = IDENTITIES
    copy = replace(
        labelled(records, "train", 0), id="copy", source=copied(labelled(records, "train", 0), "copied")
    )
    records["train"].append(replace(copy, identity=None, group="train/99"))
    records |= {"training": records["train"][:half], "tuning": records["train"][half:]}
    finding = only(examine(records, tmp_path))
    assert finding.kind == "picture in two splits"
    assert "in training and in tuning" in finding.message


def test_a_group_that_a_split_cuts_is_an_error(records: Records, tmp_path: Path) -> None:
    moved = [labelled(records, "train", n) for n in (0, 1)]
    records["train"][:2] = []
    records["test"] += [replace(record, id=f"moved-{record.id}", group="train/1") for record in moved]
    finding = only(examine(records, tmp_path))
    assert (finding.kind, finding.severity) == ("group in two splits", "error")
    assert "train/1" in finding.message


@pytest.mark.parametrize("saved", ["copied", "as JPEG"])
def test_a_query_that_finds_itself_in_the_gallery(saved: str, records: Records, tmp_path: Path) -> None:
    query = labelled(records, "test", 0)
    records["test"][1] = replace(labelled(records, "test", 1), source=copied(query, saved))
    finding = only(examine(records, tmp_path))
    assert (finding.kind, finding.severity) == ("query's own picture in the gallery", "warning")


def test_regions_of_one_identity_that_contradict_each_other(records: Records, tmp_path: Path) -> None:
    records["test"][0] = replace(labelled(records, "test", 0), attributes={"colour": "red", "sleeve": "long"})
    records["test"][1] = replace(
        labelled(records, "test", 1), attributes={"colour": "blue", "sleeve": "long"}
    )
    records["train"][0] = replace(labelled(records, "train", 0), category="skirt")
    diagnosis = examine(records, tmp_path)
    assert [finding.kind for finding in diagnosis.findings] == ["categories disagree", "attributes disagree"]
    category, attribute = diagnosis.findings
    assert "skirt at train/query-00, dress at train/gallery-00" in category.message
    assert "colour of test/0/1: red at test/query-00, blue at test/gallery-00" in attribute.message


def test_a_pair_less_alike_than_almost_all_unrelated_ones_is_a_suspect(
    records: Records, tmp_path: Path
) -> None:
    query = labelled(records, "test", 0)
    with Image.open(labelled(records, "test", 1).source) as picture:
        opposite = 255 - np.asarray(picture)
    save(opposite, Path(query.source))
    finding = only(examine(records, tmp_path))
    assert (finding.kind, finding.severity) == ("unlike pictures", "note")
    assert set(ids(finding)) == {"test/query-00", "test/gallery-00"}
    assert finding.score is not None and finding.score < -0.8
    assert "suspicion" in finding.message


def test_queries_without_an_answer_and_identities_on_one_side(records: Records, tmp_path: Path) -> None:
    records["test"] = [record for place, record in enumerate(records["test"]) if place not in (1, 3, 4)]
    diagnosis = examine(records, tmp_path)
    found = {finding.kind: finding for finding in diagnosis.findings}
    assert set(found) == {"query without an answer", "identity on one side only"}
    assert ids(found["query without an answer"]) == ["test/query-00", "test/query-01"]
    sides = [f.message for f in diagnosis.findings if f.kind == "identity on one side only"]
    assert [
        f"of {IDENTITIES} identities of test have {side} regions only" for side in ("query", "gallery")
    ] == [message.partition(" ")[2].partition(":")[0] for message in sides]


def test_a_region_searched_among_the_others_does_not_answer_itself(records: Records, tmp_path: Path) -> None:
    both = [replace(labelled(records, "test", n), side=Side.BOTH) for n in range(2 * IDENTITIES)]
    records["test"] = [*both]
    assert examine(records, tmp_path).findings == ()
    records["test"] = both[1:]
    finding = only(examine(records, tmp_path))
    assert (finding.kind, ids(finding)) == ("query without an answer", ["test/gallery-00"])


def test_answers_that_are_listed_have_to_be_in_the_gallery(records: Records, tmp_path: Path) -> None:
    records["test"] = [replace(labelled(records, "test", n), identity=None) for n in range(6)]
    for place, truth in {0: ("gallery-00",), 2: ("gallery-01", "gone"), 4: ("gone",)}.items():
        records["test"][place] = replace(labelled(records, "test", place), truth={"easy": truth})
    found = examine(records, tmp_path).findings
    assert [(finding.kind, ids(finding)) for finding in found] == [
        ("query without an answer", ["test/query-02"]),
        ("answer that is not in the gallery", ["test/query-01"]),
        ("answer that is not in the gallery", ["test/query-02"]),
    ]


def test_captions_that_say_nothing_or_too_much(records: Records, tmp_path: Path) -> None:
    for place in range(0, 2 * IDENTITIES, 2):
        captions = ("a garment", f"a dress with {place} dots")
        records["test"][place] = replace(labelled(records, "test", place), captions=captions)
    records["test"][1] = replace(labelled(records, "test", 1), captions=(" ", "Gallery-00 in red"))
    found = examine(records, tmp_path).findings
    assert [finding.kind for finding in found] == [
        "empty caption",
        "caption of many identities",
        "caption names its picture",
    ]
    assert f"{IDENTITIES} identities share the caption “a garment”" in found[1].message


def test_a_set_of_which_nothing_can_be_used(tmp_path: Path) -> None:
    diagnosis = examine({"test": []}, tmp_path)
    assert not diagnosis.sound
    assert only(diagnosis).kind == "nothing to examine"


def test_a_second_run_encodes_nothing_and_a_changed_set_leaves_no_traces(
    records: Records, tmp_path: Path
) -> None:
    encoded: list[int] = []

    class Counting(ThumbnailEncoder):
        def pictures(self, regions: Sequence, captions: Sequence[str] | None = None):  # type: ignore[no-untyped-def,type-arg]
            encoded.append(len(regions))
            return super().pictures(regions, captions)

    def run() -> Diagnosis:
        encoded.clear()
        return examine(records, tmp_path, folder=tmp_path / "doctor", encoder=Counting())

    assert run().sound and sum(encoded) == 4 * IDENTITIES
    assert run().sound and sum(encoded) == 0
    del records["train"]
    assert run().facts["regions"] == 2 * IDENTITIES
    with lookalike.open(tmp_path / "doctor" / "catalogue", Settings(encoder=ThumbnailEncoder())) as kept:
        assert kept.store.count().items == 2 * IDENTITIES


def test_another_encoder_needs_another_folder(records: Records, tmp_path: Path) -> None:
    examine(records, tmp_path, folder=tmp_path / "doctor")
    with pytest.raises(WrongEncoder):
        examine(records, tmp_path, folder=tmp_path / "doctor", encoder="colour-histogram")


def test_the_default_encoder_tells_copies_from_other_garments(tmp_path: Path) -> None:
    generated_garments(tmp_path / "set", 20, seed=4)
    drawn = sorted((tmp_path / "set").glob("*.jpg"))
    again = tmp_path / "set" / "again.jpg"
    Image.open(drawn[0]).save(again, quality=70)
    records: Records = {
        "test": [Labelled(path.stem, str(path), Side.BOTH, path.stem, path.stem) for path in (*drawn, again)]
    }
    certain = [f for f in examine(records, tmp_path, encoder=None).findings if f.severity == "error"]
    assert [set(ids(finding)) for finding in certain] == [{f"test/{drawn[0].stem}", "test/again"}]


# A catalogue


@pytest.fixture
def goods(tmp_path: Path) -> list[dict[str, object]]:
    """A table of thirty sound items with two pictures each."""
    rows: list[dict[str, object]] = []
    for number in range(30):
        for part in (1, 2):
            name = f"thing-{number}-{part}.png"
            save(view_of(1 + number, part), tmp_path / "goods" / name)
            rows.append(
                {"path": name, "item": f"thing-{number}", "title": f"Thing {number}", "price": number}
            )
    return rows


@pytest.fixture
def shop(open_shop: Callable[..., Catalogue], tmp_path: Path) -> Callable[..., Catalogue]:
    def index(rows: list[dict[str, object]]) -> Catalogue:
        catalogue = open_shop()
        catalogue.add(write_table(rows, tmp_path / "goods" / "table.jsonl"), calibrate=False)
        return catalogue

    return index


def test_a_sound_catalogue(goods: list[dict[str, object]], shop: Callable[..., Catalogue]) -> None:
    heard: list[tuple[int, int | None]] = []
    diagnosis = examine_catalogue(shop(goods), lambda done, total: heard.append((done, total)))
    assert diagnosis.findings == ()
    assert diagnosis.facts["pictures"] == 60
    assert heard[-1] == (60, 60)


def test_pictures_that_are_gone_or_changed(
    goods: list[dict[str, object]], shop: Callable[..., Catalogue], tmp_path: Path
) -> None:
    catalogue = shop(goods)
    (tmp_path / "goods" / "thing-3-1.png").unlink()
    save(drawing(999), tmp_path / "goods" / "thing-4-2.png")
    diagnosis = examine_catalogue(catalogue)
    found = {finding.kind: ids(finding) for finding in diagnosis.findings}
    assert found == {"lost picture": ["thing-3"], "changed picture": ["thing-4"]}
    assert diagnosis.sound, "it can still be searched"


def test_keys_that_others_can_reach_and_a_full_disk(
    goods: list[dict[str, object]], shop: Callable[..., Catalogue], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    catalogue, folder = shop(goods[:4]), tmp_path / "shop"
    assert examine_catalogue(catalogue, None, folder).findings == ()
    Keys(folder).new("search")
    assert examine_catalogue(catalogue, None, folder).findings == ()
    (folder / "keys.json").chmod(0o640)
    assert only(examine_catalogue(catalogue, None, folder)).kind == "keys open to others"
    (folder / "keys.json").chmod(0o600)
    usage = shutil.disk_usage(folder)._replace(free=catalogue.store.bytes_on_disk() - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    finding = only(examine_catalogue(catalogue, None, folder))
    assert (finding.kind, finding.severity) == ("little room", "warning")


def test_one_picture_under_two_items(
    goods: list[dict[str, object]], shop: Callable[..., Catalogue], tmp_path: Path
) -> None:
    save(view_of(1, 1), tmp_path / "goods" / "twin.jpg", quality=75)
    finding = only(examine_catalogue(shop([*goods, {"path": "twin.jpg", "item": "twin", "title": "Twin"}])))
    assert finding.kind == "one picture, two items"
    assert set(ids(finding)) == {"thing-0", "twin"}


def test_an_item_whose_pictures_are_unlike(
    goods: list[dict[str, object]], shop: Callable[..., Catalogue], tmp_path: Path
) -> None:
    save(255 - view_of(8, 1), tmp_path / "goods" / "thing-7-2.png")
    finding = only(examine_catalogue(shop(goods)))
    assert (finding.kind, finding.severity, ids(finding)) == (
        "unlike pictures",
        "note",
        ["thing-7", "thing-7"],
    )


def test_words_that_do_not_fit(goods: list[dict[str, object]], shop: Callable[..., Catalogue]) -> None:
    for row in goods[:10]:
        row["title"] = "Untitled"
    goods[20]["price"] = goods[21]["price"] = "on request"
    diagnosis = examine_catalogue(shop(goods))
    assert [finding.kind for finding in diagnosis.findings] == [
        "attribute of two types",
        "title of many items",
    ]
    types, titles = diagnosis.findings
    assert types.message == "attribute price is a number in 29, text in 1 items, for example thing-10"
    assert titles.message == "5 items have the title “Untitled”"


def test_a_damaged_table_is_an_error(
    goods: list[dict[str, object]], shop: Callable[..., Catalogue], tmp_path: Path
) -> None:
    import sqlite3

    catalogue = shop(goods)
    with sqlite3.connect(tmp_path / "shop" / "catalogue.sqlite") as connection:
        connection.execute("PRAGMA foreign_keys = OFF")
        connection.execute("INSERT INTO items (id, title) VALUES ('bare', 'No picture')")
        connection.execute("UPDATE regions SET x0 = 500, y0 = 0, x1 = 600, y1 = 50 WHERE key = 1")
    connection.close()
    diagnosis = examine_catalogue(catalogue)
    kinds = {finding.kind for finding in diagnosis.findings}
    assert kinds == {"fault in the catalogue", "box outside the picture"}
    assert any("1 items have no picture" in finding.message for finding in diagnosis.findings)
    assert not diagnosis.sound


# What a diagnosis is


def findings(kind: str, count: int) -> list[Finding]:
    return [Finding(kind, f"{kind} {number}") for number in range(count)]


def test_lines_come_worst_first_and_capped() -> None:
    some = [*findings("empty caption", 2), *findings("tiny box", 8), *findings("duplicate id", 1)]
    facts = {"regions": 7, "splits": {"test": {"query": 3, "gallery": 4}}}
    lines = list(Diagnosis.of("a set", facts, some).lines())
    assert lines[0] == "a set: 1 errors, 8 warnings, 2 notes"
    heads = [line for line in lines[1:] if not line.startswith(" ")]
    assert heads == [
        "error: duplicate id (1)",
        "warning: tiny box (8)",
        "note: empty caption (2)",
        "regions: 7",
        "splits: test (query 3, gallery 4)",
    ]
    assert f"    and {8 - SHOWN} more" in lines
    assert sum(line.startswith("    tiny box") for line in lines) == SHOWN


@pytest.mark.parametrize("kind", KINDS)
def test_only_errors_make_it_unsound(kind: str) -> None:
    assert Diagnosis.of("a set", {}, findings(kind, 1)).sound is (KINDS[kind] != "error")
    assert KINDS[kind] in SEVERITIES


def test_json_holds_everything(records: Records, tmp_path: Path) -> None:
    records["test"][0] = replace(labelled(records, "test", 0), box=Box(20, 20, 27, 60), identity=None)
    records["test"] += [Unlisted(f"{n}.json", f"{n}.json: broken") for n in range(2 * SHOWN)]
    document = json.loads(json.dumps(examine(records, tmp_path).as_json()))
    assert document["sound"] is False
    kinds = [finding["kind"] for finding in document["findings"]]
    assert kinds.count("unusable record") == 2 * SHOWN
    [tiny] = [finding for finding in document["findings"] if finding["kind"] == "tiny box"]
    assert tiny["severity"] == "warning"
    assert tiny["places"][0]["id"] == "test/query-00"
    assert tiny["places"][0]["box"] == [20, 20, 27, 60]


def test_the_sheet_has_a_row_for_each_pair(records: Records, tmp_path: Path) -> None:
    original = labelled(records, "test", 1)
    records["test"].append(replace(original, id="copy", source=copied(original, "copied"), identity=None))
    records["train"].append(replace(original, id="leak", source=copied(original, "copied"), group="train/0"))

    def height(diagnosis: Diagnosis) -> int:
        draw_findings(diagnosis, tmp_path / "sheet.png")
        with Image.open(tmp_path / "sheet.png") as sheet:
            return sheet.height

    found = examine(records, tmp_path)
    pairs = [finding for finding in found.findings if len(finding.places) > 1]
    assert pairs
    gone = replace(
        pairs[0], places=tuple(replace(p, path=str(tmp_path / "gone.png")) for p in pairs[0].places)
    )
    one, two = (height(Diagnosis.of("a set", {}, some)) for some in ([pairs[0]], [pairs[0], gone]))
    alone = height(Diagnosis.of("a set", {}, [*findings("tiny box", 4), pairs[0]]))
    assert one == alone < two
    with pytest.raises(BadInput):
        draw_findings(found, tmp_path / "sheet.gif")
