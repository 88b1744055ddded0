"""The cache of what a network sees: equal to the network itself, found again after a crash, refused when it
was made from something else."""

import json
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

from lookalike import images, pooling
from lookalike.datasets import Dataset, Labelled, Side, Unlisted
from lookalike.encoders import EfficientNet
from lookalike.errors import BadInput, CatalogueBusy, StorageFull
from lookalike.learn.sampling import NO_IDENTITY, PKSampler
from lookalike.learn.tokens import BLOCK, SIDES, TokenCache, make_tokens, size_of
from lookalike.learn.views import Augmentation
from lookalike.regions import Whole
from lookalike.testing import ThumbnailEncoder, drawing
from lookalike.values import Box, Maps, Picture, Region, unit

FACTS = Path(__file__).parents[1] / "golden" / "x2vlm" / "facts.json"
MARKED = Box(40, 30, 140, 150)  # where the garment is in the second picture of each identity
UNLIT = Augmentation(
    brightness=0, contrast=0, saturation=0, white=0, blurred=0, noisy=0, compressed=0, erased=0
)


def make_set(folder: Path, identities: int = 10) -> Dataset:
    """Of each identity a picture of its own and one where it is a part; a bystander without identity."""
    labelled: list[Labelled | Unlisted] = []
    for number in range(identities):
        page = np.full((180, 200, 3), 210, np.uint8)
        page[30:150, 40:140] = drawing(number, 100, 120)
        sources = [str(folder / f"{number}-{kind}.png") for kind in ("shop", "user")]
        folder.mkdir(parents=True, exist_ok=True)
        for source, pixels in zip(sources, (drawing(number), page), strict=True):
            Image.fromarray(pixels).save(source)
        pair = f"pair/{number // 2}"
        common = {"identity": f"one/{number}", "group": pair, "category": f"c{number % 3}"}
        captions = (f"piece {number}", f"a longer text about piece {number}")
        labelled += [
            Labelled(f"{number}/shop", sources[0], Side.GALLERY, captions=captions, **common),
            Labelled(f"{number}/user", sources[1], Side.QUERY, box=MARKED, truth={"easy": ("a",)}, **common),
            Labelled(
                f"{number}/by", sources[1], Side.GALLERY, None, f"pair/{number // 2}", Box(0, 0, 40, 180)
            ),
        ]

    def read(split: str) -> Iterator[Labelled | Unlisted]:
        yield from labelled

    return Dataset("drawn", folder, ("train",), read)


@pytest.fixture
def drawn(tmp_path: Path) -> Dataset:
    return make_set(tmp_path / "set")


def changed(dataset: Dataset, entries: Sequence[Labelled | Unlisted]) -> Dataset:
    return replace(dataset, read=lambda split: iter(entries))


def everything(cache: TokenCache) -> list[np.ndarray]:
    """Tokens, boxes and frames of all regions in all views."""
    shape = (cache.facts.regions, cache.facts.views)
    regions, views = (each.ravel() for each in np.indices(shape))
    seen = cache.read(regions, views)
    return [seen.tokens, seen.boxes, seen.frames]


class Counting(ThumbnailEncoder):
    """Counts the views that it sees."""

    def __init__(self) -> None:
        self.seen = 0
        self._lock = threading.Lock()

    def maps(self, pictures: Sequence[Picture]) -> Maps | None:
        with self._lock:
            self.seen += len(pictures)
        return super().maps(pictures)


def test_the_first_view_is_the_encoders_descriptor(drawn: Dataset, tmp_path: Path) -> None:
    few = changed(drawn, list(drawn.read("train"))[:6])
    encoder = EfficientNet(threads=1)
    cache = make_tokens(few, "train", encoder, tmp_path / "tokens", views=1)
    assert cache.facts.shape == (352, 9, 9)
    regions = [Region(images.load(each.source), each.box) for each in cache.regions]
    maps = cache.maps(np.arange(6), np.zeros(6, np.int64))
    inside = pooling.tapered(maps.frames, 9, 9)
    pooled = unit(pooling.salient(maps.values, 3, inside))
    assert np.abs(pooled - encoder.pictures(regions)).max() < 1e-3
    frames = encoder.maps([Picture.of(region.pixels) for region in regions]).frames
    for cached, own in zip(maps.frames, frames, strict=True):
        assert np.allclose(cached.corners, own.corners, atol=1e-5)
    seen = cache.read(np.arange(6), np.zeros(6, np.int64))
    assert np.allclose(seen.boxes, seen.frames, atol=0.01)  # a crop shows nothing but the box


def test_labels_are_kept_and_numbered(drawn: Dataset, tmp_path: Path) -> None:
    cache = make_tokens(drawn, "train", ThumbnailEncoder(), tmp_path / "tokens", views=2)
    regions = list(drawn.read("train"))
    assert list(cache.regions) == regions
    names = [region.identity for region in regions]
    assert [number == NO_IDENTITY for number in cache.identities] == [name is None for name in names]
    assert len({*zip(names, cache.identities.tolist(), strict=True)}) == 11
    assert sorted({*cache.identities.tolist()}) == list(range(-1, 10))
    assert len({*zip([r.group for r in regions], cache.groups.tolist(), strict=True)}) == 5
    assert len({*zip([r.category for r in regions], cache.categories.tolist(), strict=True)}) == 4
    assert [SIDES[side] for side in cache.sides] == [region.side for region in regions]
    sampler = PKSampler(cache.identities, cache.sides, p=5, k=2, seed=0)
    assert {regions[place].side for place in sampler.batch(0, 0)} == {Side.QUERY, Side.GALLERY}


@pytest.mark.parametrize("finder", ["given", Whole()], ids=["given", "whole"])
def test_the_mask_lies_where_the_region_is_seen(tmp_path: Path, finder: Whole) -> None:
    page = np.zeros((180, 240, 3), np.uint8)
    page[30:150, 40:140] = 255
    Image.fromarray(page).save(tmp_path / "page.png")
    region = Labelled("page", str(tmp_path / "page.png"), Side.BOTH, "one", "pair", MARKED)
    dataset = Dataset("page", tmp_path, ("train",), lambda split: iter([region]))
    options = {"views": 40, "regions": finder, "augmentation": UNLIT}
    cache = make_tokens(dataset, "train", ThumbnailEncoder(), tmp_path / "tokens", **options)
    seen = cache.read(np.zeros(40, np.int64), np.arange(40))
    colours = seen.tokens.astype(np.float32).mean(2) + 0.5  # 0 black, 1 the region
    masks = cache.masks(seen.boxes)
    assert masks.shape == (40, 64) and masks.any(1).all()
    cx, cy, w, h = 8 * seen.boxes.T[:, :, None]
    cells = np.arange(8)
    across = (np.minimum(cx + w / 2, cells + 1) - np.maximum(cx - w / 2, cells)).clip(0, 1)
    down = (np.minimum(cy + h / 2, cells + 1) - np.maximum(cy - h / 2, cells)).clip(0, 1)
    expected = (down[:, :, None] * across[:, None, :]).reshape(40, 64)  # the part of the cell in the box
    assert np.abs(colours - expected).max() < 0.15
    assert np.abs(colours - expected).mean() < 0.01
    assert (masks == (expected > 1e-4)).mean() > 0.99
    assert np.allclose(seen.frames, [0.5, 0.5, 1, 1])
    if isinstance(finder, Whole):
        assert np.allclose(seen.boxes[0], [90 / 240, 90 / 180, 100 / 240, 120 / 180], atol=1e-6)
    else:
        assert np.allclose(seen.boxes[0], [0.5, 0.5, 1, 1])
    assert len(np.unique(seen.boxes, axis=0)) > (5 if isinstance(finder, Whole) else 20)


def test_a_box_that_a_found_region_does_not_show_is_not_a_number(drawn: Dataset, tmp_path: Path) -> None:
    class Corner:
        name = "corner"

        def regions(self, pictures: Sequence[Picture]) -> list[list[Region]]:
            return [[Region(picture, Box(0, 0, 50, 50))] for picture in pictures]

    few = changed(drawn, list(drawn.read("train"))[:3])
    cache = make_tokens(few, "train", ThumbnailEncoder(), tmp_path / "tokens", views=1, regions=Corner())
    seen = cache.read(np.arange(3), np.zeros(3, np.int64))
    assert np.isnan(seen.boxes).all(1).tolist() == [True, True, True]  # of each less than half is seen
    assert not cache.masks(seen.boxes).any() and cache.masks(seen.frames).all()
    assert cache.facts.finder == "corner"


def test_masks_equal_the_authors() -> None:
    for case in json.loads(FACTS.read_text())["region_patch_mask"]:
        x, y, w, h = np.array(case["box_xywh"], np.float64) / case["image_res"]
        grid = case["image_res"] // case["patch"]
        (mask,) = pooling.cell_masks(np.array([[x + w / 2, y + h / 2, w, h]]), grid, grid)
        assert [0, *(np.flatnonzero(mask) + 1).tolist()] == case["ones"], case


def test_views_do_not_depend_on_the_order_and_change_with_the_seed(drawn: Dataset, tmp_path: Path) -> None:
    encoder = ThumbnailEncoder()
    backwards = changed(drawn, list(drawn.read("train"))[::-1])
    first, again, other = (
        make_tokens(dataset, "train", encoder, tmp_path / name, views=3, seed=seed)
        for dataset, name, seed in ((drawn, "a", 0), (backwards, "b", 0), (drawn, "c", 1))
    )
    tokens, reverse, others = (everything(each)[0].reshape(30, 3, 64, 3) for each in (first, again, other))
    assert np.array_equal(tokens, reverse[::-1])
    assert np.array_equal(tokens[:, 0], others[:, 0])
    assert (tokens[:, 1:] != others[:, 1:]).any((2, 3)).all()
    assert (tokens[:, 1] != tokens[:, 2]).any((1, 2)).all()


def test_a_killed_run_goes_on(drawn: Dataset, tmp_path: Path) -> None:
    script = """
import os, signal, sys
from pathlib import Path
tests, drawn, folder = map(Path, sys.argv[1:])
sys.path.insert(0, str(tests))
from test_tokens import ThumbnailEncoder, make_set, make_tokens
def kill(done, total):
    if done:
        os.kill(os.getpid(), signal.SIGKILL)
make_tokens(make_set(drawn), "train", ThumbnailEncoder(), folder, on_progress=kill)
"""
    places = [str(Path(__file__).parent), str(drawn.folder), str(tmp_path / "tokens")]
    done = subprocess.run([sys.executable, "-c", script, *places], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    with pytest.raises(BadInput, match=f"unfinished: {BLOCK} of 30") as refused:
        TokenCache(tmp_path / "tokens")
    assert "run again" in refused.value.hint
    with (tmp_path / "tokens" / "written.jsonl").open("a") as journal:
        journal.write('\n{"written": 30, "lo')  # cut off: it does not count

    encoder, told = Counting(), list[tuple[int, int | None]]()
    resumed = make_tokens(
        drawn, "train", encoder, tmp_path / "tokens", on_progress=lambda *each: told.append(each)
    )
    assert encoder.seen == 1 + (30 - BLOCK) * 4  # one to ask for the form of the maps
    assert told == [(BLOCK, 30), (30, 30)]
    whole = make_tokens(drawn, "train", ThumbnailEncoder(), tmp_path / "whole")
    assert all(map(np.array_equal, everything(resumed), everything(whole)))

    encoder = Counting()
    make_tokens(drawn, "train", encoder, tmp_path / "tokens")
    assert encoder.seen == 1  # finished: nothing is looked at again


def test_other_tokens_are_refused_with_what_differs(drawn: Dataset, tmp_path: Path) -> None:
    class Other(ThumbnailEncoder):
        fingerprint = "other"

    encoder, folder = ThumbnailEncoder(), tmp_path / "tokens"
    before = everything(make_tokens(drawn, "train", encoder, folder, views=2))
    entries = list(drawn.read("train"))
    renamed = changed(drawn, [replace(entries[0], captions=("another text",)), *entries[1:]])
    for differs, dataset, other, options in (
        ("fingerprint", drawn, Other(), {}),
        ("views", drawn, encoder, {"views": 3}),
        ("seed", drawn, encoder, {"seed": 1}),
        ("augmentation", drawn, encoder, {"augmentation": UNLIT}),
        ("finder", drawn, encoder, {"regions": Whole()}),
        ("labels", renamed, encoder, {}),
        ("regions|labels", changed(drawn, entries[:-1]), encoder, {}),
        ("dataset", replace(drawn, name="set"), encoder, {}),
    ):
        with pytest.raises(BadInput, match=f"another ({differs})") as refused:
            make_tokens(dataset, "train", other, folder, **{"views": 2} | options)
        assert "another folder" in refused.value.hint
    with pytest.raises(BadInput, match="another split"):
        make_tokens(drawn, "validation", encoder, folder, views=2)
    assert all(map(np.array_equal, before, everything(TokenCache(folder))))

    Image.fromarray(drawing(99)).save(entries[0].source)  # another picture under the same name
    with pytest.raises(BadInput, match="another labels"):
        make_tokens(drawn, "train", encoder, folder, views=2)


def test_a_moved_data_set_keeps_its_tokens(drawn: Dataset, tmp_path: Path) -> None:
    make_tokens(drawn, "train", ThumbnailEncoder(), tmp_path / "tokens", views=1)
    shutil.copytree(drawn.folder, tmp_path / "moved")
    encoder = Counting()
    cache = make_tokens(make_set(tmp_path / "moved"), "train", encoder, tmp_path / "tokens", views=1)
    assert encoder.seen == 1
    assert Path(cache.regions[0].source).parent == tmp_path / "moved"


def test_what_cannot_be_used_is_told_and_takes_part_in_nothing(drawn: Dataset, tmp_path: Path) -> None:
    entries = list(drawn.read("train"))
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff\xe0 no picture")
    outside = replace(entries[4], id="outside", box=Box(900, 900, 950, 950))
    bad = [replace(entries[0], id="bad", source=str(broken)), Unlisted("x", "no such field"), outside]
    dataset = changed(drawn, [*entries[:2], *bad, *entries[2:]])
    cache = make_tokens(dataset, "train", ThumbnailEncoder(), tmp_path / "tokens", views=2)
    assert cache.facts.regions == 32 and cache.facts.unlisted == 1
    assert sorted(cache.lost) == [2, 3]
    assert "broken.jpg" in cache.lost[2] and "outside" in cache.lost[3]
    assert cache.identities[[2, 3]].tolist() == [NO_IDENTITY, NO_IDENTITY]
    tokens = everything(cache)[0].reshape(32, 2, 64, 3)
    assert (tokens == 0).all((1, 2, 3)).nonzero()[0].tolist() == [2, 3]
    assert TokenCache(tmp_path / "tokens").lost == cache.lost


def test_the_size_is_told_before(drawn: Dataset, tmp_path: Path) -> None:
    encoder = ThumbnailEncoder()
    cache = make_tokens(drawn, "train", encoder, tmp_path / "tokens", views=3)
    arrays = sum(file.stat().st_size for file in (tmp_path / "tokens").glob("*.npy"))
    assert arrays - 1024 < size_of(30, 3, encoder) == cache.facts.bytes <= arrays
    with pytest.raises(StorageFull, match=r"30 regions in 1000000000 views take .* GB"):
        make_tokens(drawn, "train", encoder, tmp_path / "huge", views=10**9)


def test_bad_input_is_told_in_one_line(drawn: Dataset, tmp_path: Path) -> None:
    class Blind(ThumbnailEncoder):
        def maps(self, pictures: Sequence[Picture]) -> Maps | None:
            return None

    class Loud(ThumbnailEncoder):
        def maps(self, pictures: Sequence[Picture]) -> Maps | None:
            maps = super().maps(pictures)
            assert maps is not None
            return Maps(maps.values * 1e6, maps.frames)

    folder = tmp_path / "tokens"
    for encoder, told in ((Blind(), "no feature maps"), (Loud(), "half precision")):
        with pytest.raises(BadInput, match=told):
            make_tokens(drawn, "train", encoder, folder)
    with pytest.raises(BadInput, match="at least once"):
        make_tokens(drawn, "train", ThumbnailEncoder(), folder, views=0)
    with pytest.raises(BadInput, match="neither 'given' nor"):
        make_tokens(drawn, "train", ThumbnailEncoder(), folder, regions="salient")  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="no regions in its split train"):
        make_tokens(changed(drawn, []), "train", ThumbnailEncoder(), folder)
    with pytest.raises(BadInput, match="holds no tokens"):
        TokenCache(tmp_path / "nothing")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "facts.json").write_text('{"version": 1}')
    with pytest.raises(BadInput, match="not what a token cache holds"):
        TokenCache(tmp_path / "damaged")
    with FileLock(folder / ".lock"), pytest.raises(CatalogueBusy, match="another process"):
        make_tokens(drawn, "train", ThumbnailEncoder(), folder)
    (tmp_path / "file").touch()
    with pytest.raises(BadInput, match="cannot write"):
        make_tokens(drawn, "train", ThumbnailEncoder(), tmp_path / "file" / "tokens")
