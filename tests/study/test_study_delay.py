"""What the study of delay compares, and its sums: shares of gains, gates, seconds of a server."""

import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from lookalike.captions.chat import Step
from lookalike.datasets import Labelled, Side, open_dataset
from lookalike.datasets.street2shop import make
from lookalike.learn.scoring import Described, queries, ranked
from lookalike.learn.tokens import SIDES
from lookalike.ranking import prominence
from lookalike.study import captions, delay, gates, losses
from lookalike.study.arms import Looking, View
from lookalike.study.clocks import SERVER, Asked, asked, measured
from lookalike.study.conducting import Plan
from lookalike.study.gates import Sureness, saved_by_gate, sureness
from lookalike.study.kept import share_kept
from lookalike.study.results import Measure, Result, Results
from lookalike.study.waiting import _clocked, waiting
from lookalike.study.ways import ASKING, IMAGE, MIXED, MODEL, OWN, PALETTE, SETTINGS, TRAIN, WITHOUT
from lookalike.testing import ThumbnailEncoder
from lookalike.values import Floats, unit

PLAN = Plan(trained=100)
ARMS = {arm.name: arm for arm in delay.arms(PLAN)}
QUERIES, GROUPS = 240, 80
RANDOM = np.random.default_rng(5)
BARE = RANDOM.uniform(0.2, 0.6, QUERIES)
GAINED = RANDOM.normal(0.1, 0.1, QUERIES)
OWNERS = np.arange(QUERIES) // 3


def step(to: str, cached: bool = False) -> Step:
    return Step(to, "q", "a", "a", "ok", cached=cached)  # type: ignore[arg-type]


# What is trained


@pytest.mark.parametrize("study", [captions, losses])
def test_arms_of_one_name_are_trained_alike_in_all_studies(study: Any) -> None:
    others = {arm.name: arm for arm in study.arms(PLAN)}
    shared = others.keys() & ARMS.keys()
    assert {"all", "contrast+box"} <= shared
    for name in shared:
        assert ARMS[name].key == others[name].key, name


def test_the_pulled_and_the_imagined_are_shared_with_the_study_of_losses() -> None:
    theirs = {arm.name for arm in losses.arms(PLAN)}
    assert {"all-pull-1", "all-pull-3", "all-imagine-1"} <= theirs & ARMS.keys()


def test_every_way_is_measured() -> None:
    for way in (IMAGE, *WITHOUT, *ASKING, *OWN):
        names = {view.name for view in ARMS[way.arm].views}
        assert way.view == View() or way.view.name in names, way
    assert all(not way.view.queries for way in WITHOUT)
    assert all(way.view.queries == way.view.gallery != "" for way in ASKING)
    gallery = {view.name for view in ARMS["all"].views}
    assert {View(gallery=source, mixed="too").name for source in gates.GATED} <= gallery
    trained = {name: arm.captions for name, arm in ARMS.items() if arm.captions != "annotation"}
    assert trained == {"all-oracle-0.1": "oracle-0.1"}


# Mixed views


def test_a_mixed_view_is_named_so_and_others_as_before() -> None:
    assert View(mixed="too").name == "mixed too"
    assert View(gallery="palette", mixed="alone").name == "gallery palette, mixed alone"
    assert View().name == "bare"
    assert View(gallery="palette", queries="palette").name == "gallery palette, queries palette"


def rows(seed: int, count: int = 24, width: int = 6) -> Floats:
    return unit(np.random.default_rng(seed).normal(size=(count, width)))


def test_embeddings_are_mixed_into_language_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gallery's are its captions', where there are any; a bare query's is the imagined."""
    bare = Described(rows(1), rows(2), rows(3), rows(4))
    told = Described(rows(5), rows(2), rows(6), rows(4))
    said = ["" if place % 5 == 0 else f"piece {place}" for place in range(24)]
    source = SimpleNamespace(sides=np.arange(24) % 3, identities=np.arange(24) // 6)
    material = SimpleNamespace(parts={"tuning": source}, texts=None, one_each=lambda *_: said)
    for module in ("arms", "guards"):
        monkeypatch.setattr(
            f"lookalike.study.{module}.described", lambda *given: bare if len(given) == 3 else told
        )
    looking = Looking(SimpleNamespace(language=0.7), material, "tuning", imagines=True)  # type: ignore[arg-type]
    asking = unit(np.hstack([bare.identity, 0.7 * unit(bare.language + 0.5 * bare.imagined)]))
    words = np.array([told.text[n] if text else told.imagined[n] for n, text in enumerate(said)])
    language = 0.7 * unit(told.language + 0.5 * words)
    for how, identity in (("too", told.identity), ("alone", bare.identity)):
        searched = unit(np.hstack([identity, language]))
        due = [ranks.average_precision() for ranks in ranked(source, asking, searched)]  # type: ignore[arg-type]
        view = View(gallery="palette", mixed=how)  # type: ignore[arg-type]
        np.testing.assert_allclose(looking.measure(view).ap, due, rtol=1e-5)


# Shares of a gain


def test_a_way_that_always_keeps_the_same_share_keeps_it_for_sure() -> None:
    kept = share_kept(BARE, BARE + GAINED, BARE + 0.93 * GAINED, OWNERS)
    assert kept.share == pytest.approx(0.93)
    assert kept.low == pytest.approx(0.93) and kept.high == pytest.approx(0.93)
    assert kept.verdict == "at least 90% kept"
    assert kept.residual.mean == pytest.approx(0.07 * GAINED.mean())
    assert share_kept(BARE, BARE + GAINED, BARE + 0.5 * GAINED, OWNERS).verdict == "less than 90% kept"


def test_the_share_is_a_ratio_of_means_whose_interval_draws_whole_groups() -> None:
    way = BARE + 0.9 * GAINED + np.random.default_rng(1).normal(0, 0.1, GROUPS).repeat(3)
    kept = share_kept(BARE, BARE + GAINED, way, OWNERS)
    assert kept.share == pytest.approx((way - BARE).mean() / GAINED.mean())
    random, drawn = np.random.default_rng(9), []
    for _ in range(2000):
        some = np.concatenate(
            [np.flatnonzero(group == OWNERS) for group in random.integers(0, GROUPS, GROUPS)]
        )
        drawn.append((way - BARE)[some].mean() / GAINED[some].mean())
    np.testing.assert_allclose((kept.low, kept.high), np.quantile(drawn, (0.025, 0.975)), atol=0.03)
    assert kept.verdict == "cannot be told"
    assert kept.low < 0.9 < kept.high


def test_no_share_is_told_of_a_gain_that_may_be_none() -> None:
    gained = np.random.default_rng(2).normal(0, 0.1, GROUPS).repeat(3)
    kept = share_kept(BARE, BARE + gained, BARE + 0.95 * gained, OWNERS)
    assert kept.gain.low <= 0 <= kept.gain.high
    assert kept.verdict == "no gain to keep"
    assert math.isnan(kept.share) and math.isnan(kept.low) and math.isnan(kept.high)


def test_a_query_without_a_value_counts_in_no_sum() -> None:
    holed = BARE.copy()
    holed[::7] = np.nan
    told = np.delete(np.arange(QUERIES), np.arange(0, QUERIES, 7))
    way = BARE + 0.6 * GAINED**2
    one = share_kept(holed, BARE + GAINED, way, OWNERS)
    other = share_kept(BARE[told], (BARE + GAINED)[told], way[told], OWNERS[told])
    assert one == other and one.gain.n == len(told)


# Gates


def test_sureness_is_what_ranking_all_items_by_hand_gives() -> None:
    random = np.random.default_rng(3)
    count = 60
    identities = random.integers(-1, 12, count)  # -1: none
    source = SimpleNamespace(sides=random.integers(0, 3, count), identities=identities)
    bare, told = (
        Described(rows(seed, count), rows(seed + 1, count), rows(0, count), rows(0, count)) for seed in (7, 9)
    )
    found = sureness(source, bare, told, 0.5)  # type: ignore[arg-type]
    whole, searched = bare.descriptors(0.5), told.descriptors(0.5)
    gallery = np.flatnonzero(source.sides != SIDES.index(Side.QUERY))
    for number, place in enumerate(queries(source).tolist()):  # type: ignore[arg-type]
        lists = []
        for asking, rows_ in ((whole, searched), (bare.language, told.language)):
            best: dict[object, float] = {}
            for other in gallery.tolist():
                if other != place:
                    item = identities[other] if identities[other] >= 0 else f"own {other}"
                    best[item] = max(best.get(item, -9.0), float(asking[place] @ rows_[other]))
            lists.append(sorted(best.items(), key=lambda pair: -pair[1]))
        scores = np.array([score for _, score in lists[0]], np.float32)
        first, spoken = ({item for item, _ in each[:10]} for each in lists)
        assert found.values["margin"][number] == pytest.approx(prominence(scores), abs=1e-5)
        assert found.values["disagreement"][number] == pytest.approx(
            len(first & spoken) / len(first | spoken)
        )
        assert found.right[number] == (lists[0][0][0] == identities[place])
        assert found.answerable[number] == (identities[place] in dict(lists[0]))


def sure(seed: int) -> Sureness:
    random = np.random.default_rng(seed)
    values = {gate: random.permutation(QUERIES).astype(np.float32) / QUERIES for gate in gates.GATES}
    everyone = np.ones(QUERIES, bool)
    return Sureness(values, values["margin"] > 0.3, everyone)


def test_a_gate_captions_the_share_that_is_wanted_of_those_in_doubt() -> None:
    seen = sure(1)
    ties = replace(seen, values={"margin": np.round(seen.values["margin"], 1)})
    for share in (0.0, 0.1, 0.33, 0.75, 1.0):
        for each in (seen, ties):
            chance, values = each.captioned("margin", share), each.values["margin"]
            assert chance.mean() == pytest.approx(share, abs=1e-6)
            assert chance.min() >= 0 and chance.max() <= 1
            order = np.argsort(values)
            assert (np.diff(chance[order]) <= 0).all(), "a surer query was captioned more often"
            assert all(len(set(chance[values == value])) == 1 for value in values)


def test_the_product_s_threshold_lets_pass_what_is_right() -> None:
    seen = sure(1)
    passed = seen.values["margin"] >= seen.sure_from("margin")
    assert seen.right[passed].mean() >= 0.95 and 0 < passed.mean() < 1
    assert replace(seen, right=np.zeros(QUERIES, bool)).sure_from("margin") == math.inf


def results(seeds: int = 2) -> Results:
    """Query captions gain .1, and each way without them a share of it that the next has not."""
    runs = []
    for name in SETTINGS:
        for seed in range(seeds):
            measures: dict[str, Measure] = {}
            for way in (IMAGE, *WITHOUT, *ASKING, *OWN):
                if way.arm == name:
                    measures[way.view.name] = measure(gain(way))
            if name == "all":
                measures[View(gallery="palette", mixed="too").name] = measure(0.0)
            runs.append(Result(name, seed, 10, 1.0, {}, {}, measures))
    return Results(OWNERS, {"data": "made", "part": "validation", "torch": "none"}, runs)


def gain(way: Any) -> float:
    if way.view.queries:
        return 1.0
    return {"pull at 3": 0.95, "pull at 3, gallery": 0.97, "image: no captions anywhere": -1.0}.get(
        way.label, 0.0
    )


def measure(share: float) -> Measure:
    return Measure((BARE + share * GAINED).astype(np.float32), np.ones(QUERIES, np.float32))


@pytest.mark.parametrize("source", gates.GATED)
def test_the_whole_gain_is_kept_where_all_are_captioned(source: str) -> None:
    section = saved_by_gate(results(), source, [(sure(1), sure(2)), (sure(3), sure(4))])
    rows = {(row["gate"], row["aimed"]): row for row in section.record}
    everyone = rows["margin", 1.0]
    assert everyone["captioned"] == 1 and everyone["share"] == pytest.approx(1)
    assert everyone["map"] == pytest.approx((BARE + GAINED).mean(), abs=1e-6)
    for gate in gates.GATES:
        shares = [rows[gate, share]["captioned"] for share in gates.SHARES]
        assert shares == sorted(shares) and shares == pytest.approx(gates.SHARES)
    half, usual = rows["margin", 0.5], rows["margin", None]
    wanted = [sure(seed).values["margin"] < 0.5 for seed in (2, 4)]
    calibrated = [sure(seed).values["margin"] < sure(seed - 1).sure_from("margin") for seed in (2, 4)]
    for row, told in ((half, wanted), (usual, calibrated)):
        due = (BARE + np.mean(told, axis=0) * GAINED).mean()
        assert row["map"] == pytest.approx(due, abs=1e-6)
    assert json.dumps(section.record, allow_nan=False)
    assert next(iter(section.drawings.values())).startswith("<svg")


# The report


def test_the_report_names_the_ways_that_meet_the_bar() -> None:
    section = delay._kept(results())
    assert section.text.startswith("The bar of 90% is met by: pull at 3; pull at 3, gallery.")
    rows = {(row["way"], row["gain"]): row for row in section.record}
    assert rows["pull at 3", "query"]["share"] == pytest.approx(0.95, abs=1e-4)
    assert rows["pull at 3", "all"]["share"] == pytest.approx(1.95 / 2, abs=1e-4)
    assert rows["train+gallery", "query"]["verdict"] == "less than 90% kept"
    assert json.dumps(section.record, allow_nan=False)


def test_the_report_says_where_there_is_no_gain_to_keep_and_what_was_not_run() -> None:
    found = results()
    for run in found.runs:
        if run.arm == "all":
            for way in (MODEL, MIXED):
                run.measures[way.view.name] = run.measures["bare"]  # type: ignore[index]
    nothing = replace(found.runs[0], arm="another")
    section = delay._kept(found)
    assert section.text.startswith("There is no gain of query captions to keep")
    query = [row for row in section.record if row["gain"] == "query"]
    assert {row["verdict"] for row in query} == {"no gain to keep"}
    assert {row["share"] for row in query} == {None}
    assert delay._kept(Results(OWNERS, {}, [nothing])).text.startswith("Not run.")


# Seconds


def test_a_server_takes_what_the_notes_on_captions_derive() -> None:
    """attributes 1.0 to 1.1 s, targeted with three more looks 2.5 to 3 s, dialogue 7 to 10 s."""
    form, looks = [step("vlm")], [step("vlm")] * 4
    dialogue = [step("vlm"), *[step("llm"), step("vlm")] * 9, step("llm")]
    assert 1.0 <= SERVER.seconds(form, "attributes") <= 1.1
    assert 2.5 <= SERVER.seconds(looks, "targeted") <= 3
    assert len(dialogue) == 20 and 7 <= SERVER.seconds(dialogue, "dialogue") <= 10
    assert SERVER.seconds([step("vlm", cached=True)], "attributes") == 0
    assert SERVER.seconds([], "dialogue") == 0


def test_first_hits_never_wait_and_a_server_is_asked_meanwhile() -> None:
    machine = {"bare": 40.0, "again": 50.0, "palette": 8.0}
    found = results()
    bare = _clocked(found, TRAIN, "none", machine)
    palette = _clocked(found, PALETTE, "palette", machine, 8.0)
    server = _clocked(found, MODEL, "attributes", machine, 1000.0, {"calls": 1.0})
    assert [each["first_ms"] for each in (bare, palette, server)] == [40.0] * 3
    assert [each["refined_ms"] for each in (bare, palette, server)] == [40.0, 98.0, 1050.0]
    assert bare["value"] is None and bare["gain"] is None
    assert server["gain"]["mean"] == pytest.approx(GAINED.mean(), abs=1e-6)
    assert server["value"] == pytest.approx(100 * GAINED.mean() / 10.1, abs=1e-5)


def test_the_table_of_times_says_what_is_simulated(tmp_path: Path) -> None:
    asked = {
        name: {"pictures": 9, "calls": calls, "seconds": seconds, "failed": 0.0, "same": 1.0}
        for name, calls, seconds in (
            ("attributes", 1.0, 1.05),
            ("targeted", 2.0, 1.55),
            ("dialogue", 19.0, 9.0),
        )
    }
    machine = {"pictures": 9, "bare": 40.0, "again": 50.0, "palette": 8.0}
    of = {"data": "made", "part": "validation"}
    (tmp_path / "times.json").write_text(json.dumps({"of": of, "measured": machine, "asked": asked}))
    found: Any = SimpleNamespace(results=results(), folder=tmp_path)
    section = waiting(found, delay._table())
    told = [line for line in section.text.splitlines() if line.startswith("| ")]
    assert sum("simulated" in line for line in told) == 3
    assert "| dialogue, simulated | 19.0 | 40 | 9,050 |" in section.text
    (drawing,) = section.drawings.values()
    assert ElementTree.fromstring(drawing).tag.endswith("svg") and "not run" not in drawing
    assert json.dumps(section.record, allow_nan=False)


def test_calls_are_those_that_the_captioner_makes(tmp_path: Path) -> None:
    make(tmp_path, 6, seed=2, workers=1)
    dataset = open_dataset(tmp_path)
    regions = [each for each in dataset.read("training") if isinstance(each, Labelled)][:3]
    found = asked("oracle-0", dataset, "training", regions)
    assert found["attributes"] == Asked(3, calls=1.0, seconds=SERVER.form, failed=0.0, same=1.0)
    targeted, dialogue = found["targeted"], found["dialogue"]
    assert 1 <= targeted.calls <= 4 and targeted.failed == 0
    assert targeted.seconds == pytest.approx(SERVER.form + (targeted.calls - 1) * SERVER.answer)
    assert targeted.calls < dialogue.calls <= 20 and dialogue.seconds > targeted.seconds
    times = measured(ThumbnailEncoder(), regions, gallery=50)
    assert times.pictures == 2 and min(times.bare, times.again, times.palette) > 0
