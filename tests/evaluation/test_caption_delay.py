"""What captions cost at the query: that everything is counted, and counted at the right place. No speeds."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lookalike import images
from lookalike.captions.captioner import Telling
from lookalike.captions.chat import Step
from lookalike.catalogue import Catalogue
from lookalike.errors import BadInput
from lookalike.evaluation.captioning.delay import Conditions, Delays, Photo, measure
from lookalike.evaluation.captioning.delay_report import Spread
from lookalike.values import Box, Caption, Claim, Floats, Maps, Picture, Region, unit

OpenShop = Callable[..., Catalogue]

COLOURS = ("red", "green", "blue", "navy", "black", "white")
WHOLE = Box(0, 0, 90, 120)


class Reader:
    """A stand-in for an encoder that was trained with captions: it sees which item is painted.

    Words say the colour of another item, and count twice as much as what is seen.
    """

    name, fingerprint = "reader", "reader-1"
    captioned = True
    dim = 2 * len(COLOURS)

    def pictures(self, regions: Sequence[Region], captions: Sequence[str] | None = None) -> Floats:
        seen = np.eye(len(COLOURS), dtype=np.float32)[[region.pixels[0, 0, 0] // 40 for region in regions]]
        return unit(np.concatenate([seen, 2 * self._bags(captions or [""] * len(regions))], axis=1))

    def texts(self, texts: Sequence[str]) -> Floats:
        return unit(np.concatenate([np.zeros((len(texts), len(COLOURS))), self._bags(texts)], axis=1))

    def maps(self, pictures: Sequence[Picture]) -> Maps | None:
        return None

    @staticmethod
    def _bags(texts: Sequence[str]) -> Floats:
        return np.array([[colour in text.split() for colour in COLOURS] for text in texts], np.float32)


class Teller:
    """Says what it is told to by the file's name, after a nap, and keeps its answers like a step cache."""

    name = "teller"

    def __init__(self, words: dict[str, str], nap_s: float = 0.0) -> None:
        self.words, self.nap_s = words, nap_s
        self.asked: list[str] = []
        self._kept: dict[str, Telling] = {}
        self._lock = threading.Lock()

    def captions(self, regions: Sequence[Region]) -> list[Caption]:
        return [telling.caption for telling in self.tellings(regions)]

    def tellings(self, regions: Sequence[Region]) -> list[Telling]:
        return [self._telling(Path(region.picture.source).stem) for region in regions]

    def _telling(self, name: str) -> Telling:
        with self._lock:
            self.asked.append(name)
            kept = self._kept.get(name)
        step = Step("vlm", "?", "!", "!", "ok", tokens_in=30, tokens_out=4, cached=kept is not None)
        if kept is not None:
            return Telling(kept.caption, steps=(step,))
        started = time.perf_counter()
        time.sleep(self.nap_s)
        if name not in self.words:
            return Telling(Caption("", self.name, error="it does not know"), steps=(step,))
        colour = self.words[name]
        claims = (Claim(colour, "colour", colour),)
        step = Step("vlm", "?", "!", "!", "ok", 30, 4, total_ms=(time.perf_counter() - started) * 1000)
        made = Telling(Caption(f"a {colour} thing", self.name, claims=claims), steps=(step,))
        with self._lock:
            self._kept[name] = made
        return made


class Labels:
    """The gallery's captioner: the colour of each item."""

    name = "labels"

    def captions(self, regions: Sequence[Region]) -> list[Caption]:
        names = [Path(region.picture.source).parent.name for region in regions]
        return [Caption(f"a {COLOURS[int(name[-1])]} thing", self.name) for name in names]


def painted(path: Path, item: int, shade: int) -> Path:
    path.parent.mkdir(exist_ok=True, parents=True)
    Image.new("RGB", (90, 120), (40 * item, shade, shade)).save(path)
    return path


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for item in range(len(COLOURS)):
        painted(tmp_path / "pictures" / f"item-{item}" / "front.png", item, 0)
    return tmp_path / "pictures"


@pytest.fixture
def shop(pictures: Path, open_shop: OpenShop) -> Catalogue:
    made = open_shop(encoder=Reader(), regime="train+gallery+query")
    made.add(pictures, captioner=Labels(), calibrate=False)
    return made


@pytest.fixture
def photos(tmp_path: Path) -> list[Photo]:
    """Of item-0 to item-5, each looking like the item after it."""
    return [
        Photo(painted(tmp_path / f"photo-{item}.png", (item + 1) % 6, 9), WHOLE, frozenset({f"item-{item}"}))
        for item in range(len(COLOURS))
    ]


RIGHT = {f"photo-{number}": colour for number, colour in enumerate(COLOURS)}


def _outcomes(delays: Delays) -> list[tuple[str, str, dict[str, float]]]:
    return [(each.loop, each.state, dict(each.outcomes)) for each in delays.phases]


def test_every_query_is_paired_in_every_round_and_warm_ones_are_hits(
    shop: Catalogue, photos: list[Photo]
) -> None:
    teller, seen = Teller(RIGHT, nap_s=0.05), []
    delays = measure(shop, teller, photos, Conditions(rounds=3), lambda *done: seen.append(done))
    assert seen == [(done, 18) for done in range(1, 19)]
    assert sorted(teller.asked) == sorted(3 * list(RIGHT))
    cold, warm = delays.phases
    assert [(each.loop, each.state, each.bare.n, each.hits) for each in (cold, warm)] == [
        ("closed", "cold", 6, 0.0),
        ("closed", "warm", 12, 1.0),
    ]
    assert cold.d_online.mean == pytest.approx(cold.refined.mean - cold.bare.mean)
    assert cold.d_first.mean == pytest.approx(cold.first.mean - cold.bare.mean)
    assert (delays.d_miss, delays.d_hit) == (cold.d_online, warm.d_online)
    assert delays.hit_share == pytest.approx(2 / 3)
    assert cold.refined.mean > 50 - 1  # the nap is in it, not in the warm rounds' calls
    assert cold.behind["call"] > 50 - 1 > warm.behind["call"] == 0
    assert (delays.cost.captions, delays.cost.calls, delays.cost.tokens_in) == (6, 1.0, 30.0)


def test_spans_add_up_to_the_total(shop: Catalogue, photos: list[Photo]) -> None:
    delays = measure(shop, Teller(RIGHT, nap_s=0.05), photos, Conditions(arrival_rate=50.0))
    assert [(each.loop, each.state) for each in delays.phases] == [
        ("closed", "cold"), ("closed", "warm"), ("open", "cold"),
    ]  # fmt: skip
    for phase in delays.phases:
        assert sum(phase.spans.values()) == pytest.approx(phase.refined.mean, abs=1e-6)
        assert {"arrival", "decode", "encode", "search", "caption", "search again"} < set(phase.spans)
        assert phase.spans["residual"] > -1e-6  # nothing is counted twice
        parts = {name: part for name, part in phase.behind.items() if name != "whole"}
        assert sum(parts.values()) == pytest.approx(phase.behind["whole"])
    cold, warm, _ = delays.phases
    assert cold.spans["caption"] > warm.spans["caption"]


def test_what_a_caption_changes_rightly_and_wrongly(shop: Catalogue, photos: list[Photo]) -> None:
    """Bare, a photo finds the item after its own. Four captions are right, one says the same, one lies."""
    words = RIGHT | {"photo-4": COLOURS[5], "photo-5": COLOURS[2]}
    worth = measure(shop, Teller(words), photos, Conditions(rounds=1)).worth
    assert (worth.photos, worth.top1_changed) == (6, pytest.approx(5 / 6))
    assert (worth.rightly, worth.wrongly) == (pytest.approx(4 / 6), 0.0)
    assert worth.gains["R@1"].mean == pytest.approx(4 / 6)
    assert worth.gains["R@10"].mean == 0.0
    assert 0 < worth.gains["AP@10"].mean < worth.gains["R@1"].mean
    assert worth.per_100_ms(200.0)["R@1"] == pytest.approx(4 / 6 / 2)
    believers = [
        Photo(each.picture, each.box, frozenset({f"item-{(n + 1) % 6}"})) for n, each in enumerate(photos)
    ]
    worth = measure(shop, Teller(words), believers, Conditions(rounds=1)).worth
    assert (worth.rightly, worth.wrongly) == (0.0, pytest.approx(5 / 6))
    assert worth.gains["R@1"].mean == pytest.approx(-5 / 6)
    unknown = [Photo(each.picture, each.box) for each in photos]
    worth = measure(shop, Teller(words), unknown, Conditions(rounds=1)).worth
    assert (worth.photos, worth.top1_changed, worth.gains) == (0, pytest.approx(5 / 6), {})
    assert math.isnan(worth.rightly)


def test_late_captions_count_at_the_deadline_and_do_not_disturb_the_next(
    shop: Catalogue, photos: list[Photo]
) -> None:
    teller = Teller(RIGHT, nap_s=1.2)
    delays = measure(shop, teller, photos[:2], Conditions(rounds=2, deadline_s=0.8))
    cold, warm = delays.phases
    assert _outcomes(delays) == [("closed", "cold", {"late": 1.0}), ("closed", "warm", {"refined": 1.0})]
    assert cold.refined.p99 == pytest.approx(800, abs=200)  # not 1200
    assert warm.hits == 1.0  # the late ones were finished, and kept
    assert sum(cold.spans.values()) == pytest.approx(cold.refined.mean)
    assert cold.spans["search again"] == 0.0


def test_failed_and_gated_queries_are_told(shop: Catalogue, photos: list[Photo]) -> None:
    some = {name: RIGHT[name] for name in ("photo-0", "photo-1", "photo-2")}
    delays = measure(shop, Teller(some), photos, Conditions(rounds=1))
    ((*_, outcomes),) = _outcomes(delays)
    assert outcomes == {"refined": pytest.approx(0.5), "failed": pytest.approx(0.5)}
    with shop.open_writer() as store:
        store.meta["margin"] = "-1"  # every answer is sure
    teller = Teller(RIGHT)
    delays = measure(shop, teller, photos, Conditions(rounds=1, gate="margin"))
    assert (_outcomes(delays), teller.asked) == ([("closed", "cold", {"sure": pytest.approx(1.0)})], [])
    assert (delays.d_miss.n, delays.d_hit.n, delays.cost.captions) == (0, 0, 0)
    assert math.isnan(delays.hit_share)
    assert delays.phases[0].behind == {}
    assert json.loads(json.dumps(delays.as_json(), allow_nan=False))["d_effective"]["0.5"] is None
    assert any("unknown" in line for line in delays.lines())


def test_pictures_of_the_catalogue_are_hits(shop: Catalogue, pictures: Path) -> None:
    teller = Teller(RIGHT)
    inside = [Photo(Region(images.load(pictures / "item-3" / "front.png")))]
    delays = measure(shop, teller, inside, Conditions(rounds=1))
    assert (teller.asked, delays.phases[0].hits, delays.d_hit.n) == ([], 1.0, 1)


def test_the_open_loop_counts_from_the_scheduled_arrival(shop: Catalogue, photos: list[Photo]) -> None:
    """One worker, and captions slower than the arrivals: whoever comes later waits longer, and it counts."""
    many = [Photo(each.picture, each.box) for each in photos for _ in range(2)]  # photo n closed, then open
    teller = Teller({}, nap_s=0.1)  # it fails, so that nothing is kept
    conditions = Conditions(rounds=1, arrival_rate=1000.0, workers=1)
    closed, opened = measure(shop, teller, many, conditions).phases
    assert (closed.bare.n, opened.bare.n) == (6, 6)
    assert opened.refined.p99 > 5 * 100
    assert opened.spans["arrival"] > 2 * 100  # (0 + 1 + … + 5) naps over 6 queries, less the arrivals
    assert opened.d_first.mean > 100  # the first hits of the next wait for the caption of the last, too
    assert closed.spans["arrival"] < opened.spans["arrival"]
    eased = measure(shop, teller, many, Conditions(rounds=1, arrival_rate=1000.0, workers=6)).phases[1]
    assert eased.spans["arrival"] < opened.spans["arrival"]
    late = measure(shop, Teller({}, nap_s=0.3), many, Conditions(1, 1000.0, workers=1, deadline_s=0.1))
    assert late.phases[1].outcomes == {"late": pytest.approx(1.0)}
    assert late.phases[1].refined.p99 > 5 * 100


def test_effective_delay_and_who_is_named(shop: Catalogue, photos: list[Photo]) -> None:
    delays = measure(shop, Teller(RIGHT), photos, Conditions(simulated="teller, 0 s"))
    miss, hit = delays.d_miss.mean, delays.d_hit.mean
    assert [delays.effective(share) for share in (0.0, 0.25, 1.0)] == pytest.approx(
        [miss, 0.25 * hit + 0.75 * miss, hit]
    )
    told = delays.as_json()
    assert told["d_effective"]["measured"] == pytest.approx((miss + hit) / 2)
    assert told["d_effective"]["0.9"] == pytest.approx(0.9 * hit + 0.1 * miss)
    assert json.loads(json.dumps(told)) == told
    lines = list(delays.lines())
    heads = {number - 1 for number, line in enumerate(lines) if line.startswith("|---")}
    rows = [
        line for number, line in enumerate(lines)
        if line.startswith("| ") and number not in heads
    ]  # fmt: skip
    assert len(heads) == 7
    assert all(row.startswith("| simulated (teller, 0 s) |") for row in rows)
    assert all(lines[number].count("|") == lines[number + 2].count("|") for number in heads)
    real = measure(shop, Teller(RIGHT), photos, Conditions(rounds=1))
    assert not any("simulated" in line for line in real.lines())


def test_spread() -> None:
    spread = Spread.of([10.0, 20.0, 30.0, 40.0], [0, 1, 2, 3])
    assert (spread.mean, spread.p50, spread.n) == (25.0, 25.0, 4)
    assert 10 <= spread.low < 25 < spread.high <= 40
    assert (spread.p95, spread.p99) == (pytest.approx(38.5), pytest.approx(39.7))
    one = Spread.of([10.0, 20.0], [7, 7])  # of one photo: nothing to draw again
    assert one.mean == 15.0
    assert math.isnan(one.low)
    assert Spread.of([], []).n == 0


def test_what_cannot_be_measured(pictures: Path, open_shop: OpenShop, photos: list[Photo]) -> None:
    shop = open_shop(encoder=Reader(), regime="train+gallery+query")
    shop.add(pictures, captioner=Labels(), calibrate=False)
    with pytest.raises(BadInput, match="0 photos"):
        measure(shop, Teller(RIGHT), [])
    with pytest.raises(BadInput, match="1 photos"):
        measure(shop, Teller(RIGHT), photos[:1], Conditions(arrival_rate=1.0))
    for wrong in (
        {"rounds": 0},
        {"workers": 0},
        {"deadline_s": 0.0},
        {"arrival_rate": 0.0},
        {"gate": "chance"},
    ):
        with pytest.raises(BadInput):
            Conditions(**wrong)  # type: ignore[arg-type]


def test_a_catalogue_of_another_regime_is_refused(
    pictures: Path, open_shop: OpenShop, photos: list[Photo]
) -> None:
    shop = open_shop(encoder=Reader(), regime="train+gallery")
    shop.add(pictures, captioner=Labels(), calibrate=False)
    with pytest.raises(BadInput, match="built for the regime"):
        measure(shop, Teller(RIGHT), photos)
