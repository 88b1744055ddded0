"""What the runs of a study share: who said what of which region."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from looked_at import PARTS, SOURCES

from ending import await_ended
from lookalike.captions import FileCaptions
from lookalike.datasets import Side, open_dataset
from lookalike.errors import BadInput
from lookalike.learn.sampling import NO_IDENTITY
from lookalike.learn.sources import Variant
from lookalike.study.material import Material, opened, to_be_had
from lookalike.study.running import Place


@pytest.fixture(scope="module")
def material(base: Path) -> Material:
    return opened(PARTS, SOURCES, base)


def test_fewer_identities_are_part_of_more(material: Material) -> None:
    cells = material.training
    kept = []
    for count in (2, 5, 8):
        fewer = Variant(cells, None, identities=count)
        there = fewer.identities != NO_IDENTITY
        assert np.array_equal(fewer.identities[there], cells.identities[there])
        kept.append({region.identity for region, here in zip(fewer.regions, there, strict=True) if here})
        whole = [region.identity in kept[-1] for region in cells.regions]
        assert there.tolist() == whole  # all pictures of an identity, or none
    assert [len(each) for each in kept] == [2, 5, 8] and kept[0] < kept[1] < kept[2]
    with pytest.raises(BadInput, match="1,000 identities are asked for"):
        Variant(cells, None, identities=1000)


def test_fewer_pictures_are_of_both_sides_as_long_as_there_are(material: Material) -> None:
    cells = material.training
    before: set[int] = set()
    for count in (1, 2, 3):
        fewer = Variant(cells, None, pictures=count)
        places = np.flatnonzero(fewer.identities != NO_IDENTITY)
        assert before <= set(places.tolist())
        before = set(places.tolist())
        for name in {region.identity for region in cells.regions}:
            mine = [place for place, each in enumerate(cells.regions) if each.identity == name]
            taken = [place for place in places.tolist() if cells.regions[place].identity == name]
            sides = [sum(cells.regions[place].side == side for place in taken) for side in Side]
            there = [sum(cells.regions[place].side == side for place in mine) for side in Side]
            assert len(taken) == min(count, len(mine))
            for side, other in ((0, 1), (1, 0)):
                assert sides[side] - sides[other] <= 1 or sides[other] == there[other]


def test_a_variant_differs_from_others_and_sees_the_same(material: Material) -> None:
    cells, said = material.training, material.said["palette", "training"]
    variants = [
        Variant(cells, None),
        Variant(cells, said),
        Variant(cells, None, 5),
        Variant(cells, None, None, 2),
    ]
    assert len({str(each.facts["variant"]) for each in variants}) == 4
    assert Variant(cells, said).facts == variants[1].facts
    assert [region.captions for region in variants[1].regions] == list(said)
    some, draws = np.array([4, 0]), np.array([7, 8])
    for variant in variants:
        assert np.array_equal(variant.look(some, draws).image, cells.look(some, draws).image)


def test_sources_say_what_they_stand_for(material: Material) -> None:
    cells, said = material.queried, material.said
    true = said["annotation", "validation"]
    assert list(true) == [region.captions for region in cells.regions] and all(true)

    whose: dict[tuple[str, ...], set[int]] = {}
    for captions, identity in zip(true, cells.identities.tolist(), strict=True):
        whose.setdefault(captions, set()).add(identity)
    known = [place for place in range(len(cells.regions)) if cells.identities[place] != NO_IDENTITY]
    shuffled = said["shuffled", "validation"]
    assert sorted(shuffled) == sorted(true)
    for place in known:
        assert whose[shuffled[place]] - {cells.identities[place]}
    theirs = [np.flatnonzero(cells.identities == identity) for identity in np.unique(cells.identities[known])]
    givers = [{min(whose[shuffled[place]]) for place in places} for places in theirs if len(places) > 2]
    assert sum(len(each) > 1 for each in givers) > 0.8 * len(givers)  # not all from one other product

    honest, lying = (said[f"oracle-{rate}", "validation"] for rate in ("0.0", "1.0"))
    right = wrong = asked = 0
    for region, one, other in zip(cells.regions, honest, lying, strict=True):
        colour = region.attributes.get("colour")
        if colour and one and other:
            asked += 1
            right += colour in one[0]
            wrong += colour in other[0]
    assert asked > 10 and right > 0.9 * asked and wrong < 0.1 * asked

    palette = said["palette", "validation"]
    unchecked = said["palette unchecked", "validation"]
    assert len(palette) == len(unchecked) == len(cells.regions) and any(palette)
    assert all(len(a) <= 1 for a in palette)
    for checked, everything in zip(palette, unchecked, strict=True):
        assert len("".join(checked)) <= len("".join(everything))


def test_one_caption_of_each_is_the_middle_one(material: Material) -> None:
    told = material.one_each("annotation", "validation")
    for text, region in zip(told, material.queried.regions, strict=True):
        assert text == region.captions[len(region.captions) // 2]


def test_a_file_takes_the_annotations_place(base: Path, place: Place) -> None:
    dataset = open_dataset(base / "data")
    file = place.folder / "told.csv"
    rows = []
    for part in place.parts:
        for number, region in enumerate(dataset.read(part)):
            if number % 3:
                box = ",".join(map(str, region.box.corners))
                rows.append(f'{region.source},"{box}",piece {number}')
    file.write_text("path,box,caption\n" + "\n".join(rows) + "\n")
    given = FileCaptions(file)
    found = opened(place.parts, place.sources, place.folder, given)
    for part in place.parts:
        regions = list(found.parts[part].regions)
        named = {(each.source, each.box): number for number, each in enumerate(dataset.read(part))}
        for region in regions:
            number = named[region.source, region.box]
            assert region.captions == ((f"piece {number}",) if number % 3 else ())
    assert found.said["annotation", "validation"] == tuple(r.captions for r in found.queried.regions)
    assert sorted(found.said["shuffled", "validation"]) == sorted(found.said["annotation", "validation"])
    assert found.given == given.name and opened(place.parts, place.sources, place.folder).given == ""


def test_what_can_be_had() -> None:
    for source, had in (
        ("annotation", (True, True, False, False)),
        ("shuffled", (True, True, False, False)),
        ("palette", (True, True, True, True)),
        ("palette unchecked", (True, True, True, True)),
        ("oracle-0.1", (True, False, True, False)),
    ):
        kinds = ((True, True), (True, False), (False, True), (False, False))
        assert tuple(to_be_had(source, *kind) for kind in kinds) == had, source


def test_a_killed_captioning_goes_on_and_its_server_ends(base: Path, place: Place) -> None:
    shutil.rmtree(place.folder / "sources")
    script = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from looked_at import silent
from lookalike.datasets import open_dataset
dataset = open_dataset(Path(sys.argv[2]))
from lookalike.study import material
material._caption(dataset, "tuning", "oracle-0.0", Path(sys.argv[3]), silent(""))
"""
    file = place.folder / "sources" / "oracle-0.0.tuning.jsonl"
    command = [sys.executable, "-c", script, str(Path(__file__).parent), str(base / "data"), str(file)]
    killed = subprocess.Popen(command)
    while not (file.exists() and len(file.read_bytes().splitlines()) >= 2):
        assert killed.poll() is None
        time.sleep(0.005)
    server = psutil.Process(killed.pid).children()
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    there = file.read_text().splitlines()
    assert not file.with_suffix(".whole").exists() and server
    await_ended(server)  # by itself
    subprocess.run(command, check=True)
    told = [json.loads(line) for line in file.read_text().splitlines()]
    regions = list(open_dataset(base / "data").read("tuning"))
    assert file.read_text().splitlines()[: len(there) - 1] == there[:-1]
    assert len(told) == len(regions) and {each["by"] for each in told} == {"oracle-0.0"}
    assert len({(each["path"], *each["box"]) for each in told}) == len(regions)
    assert file.with_suffix(".whole").exists()
