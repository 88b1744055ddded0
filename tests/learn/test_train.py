"""Training on cached tokens, with the stand-in encoder and a model of a few thousand weights."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from lookalike.datasets import Dataset, Labelled, Side, Unlisted
from lookalike.errors import BadInput
from lookalike.learn.models.adapted import Adapted
from lookalike.learn.models.x2vlm import X2VLM, X2VLMConfig
from lookalike.learn.tokens import TokenCache, make_tokens
from lookalike.learn.train import Captions, Recipe, Trainer, described, mean_average_precision, weights_of
from lookalike.testing import ThumbnailEncoder, drawing

CONFIG = replace(
    X2VLMConfig.tiny(), resolution=64, vision_width=3, vision_heads=1, vision_depth=1, text_layers=1
)
RECIPE = Recipe(p=4, k=3, epochs=3, lr=5e-3, contrast=0.5, seed=3)


def garments(folder: Path, identities: int = 8) -> Dataset:
    labelled: list[Labelled | Unlisted] = []
    for number in range(identities):
        for view in range(3):
            path = folder / f"{number}-{view}.png"
            noisy = drawing(number) + np.random.default_rng(view).normal(0, 25, (128, 96, 3))
            Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path)
            side = Side.QUERY if view == 0 else Side.GALLERY
            identity = f"one/{number}"
            captions = (f"a {'red' if number % 2 else 'blue'} piece",) if view else ()
            labelled.append(Labelled(path.stem, str(path), side, identity, identity, captions=captions))

    def read(split: str) -> Iterator[Labelled | Unlisted]:
        yield from labelled

    return Dataset("made", folder, ("all",), read)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> TokenCache:
    folder = tmp_path_factory.mktemp("garments")
    return make_tokens(garments(folder), "all", ThumbnailEncoder(), folder / "tokens", views=2)


def model(seed: int = 0) -> Adapted:
    torch.manual_seed(seed)
    return Adapted(X2VLM(CONFIG))


def captions(of: Adapted, cache: TokenCache) -> Captions:
    @torch.no_grad()
    def read(texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        length = max(len(text.split()) for text in texts) + 2
        ids, mask = torch.zeros(2, len(texts), length, dtype=torch.int64)
        for row, text in enumerate(texts):
            words = [2, *(4 + sum(map(ord, word)) % 90 for word in text.split()), 3]
            ids[row, : len(words)] = torch.tensor(words)
            mask[row, : len(words)] = 1
        return of.vlm.eval().text(ids, mask), mask

    return Captions([text for region in cache.regions for text in region.captions], read)


def train(cache: TokenCache, out: Path, recipe: Recipe = RECIPE, stop: int | None = None) -> Trainer:
    made = model()
    trainer = Trainer(made, cache, captions(made, cache), recipe, out)
    for done, _ in enumerate(trainer.run(), start=1):
        if done == stop:
            break
    return trainer


def test_every_loss_falls_and_the_descriptor_stays_a_descriptor(cache: TokenCache, tmp_path: Path) -> None:
    made = model()
    said = captions(made, cache)
    told = list(Trainer(made, cache, said, replace(RECIPE, epochs=30), tmp_path).run())
    for name in ("arcface", "contrast", "itc", "box", "loss"):
        assert told[-1][name] < told[0][name], name
    every = np.arange(len(cache.regions))
    _, rows = described(made, cache, said, every)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    assert 0.5 < mean_average_precision(rows, cache) <= 1


def test_a_stopped_training_ends_with_the_same_weights(cache: TokenCache, tmp_path: Path) -> None:
    whole = train(cache, tmp_path / "whole")
    train(cache, tmp_path / "stopped", stop=1)
    goes_on = train(cache, tmp_path / "stopped")
    assert goes_on.epoch == whole.epoch == 3
    for (name, one), other in zip(
        whole.model.state_dict().items(), goes_on.model.state_dict().values(), strict=True
    ):
        assert torch.equal(one, other), name
    assert torch.equal(whole.centres, goes_on.centres)


def test_another_recipe_in_the_same_folder_is_refused(cache: TokenCache, tmp_path: Path) -> None:
    train(cache, tmp_path, stop=1)
    with pytest.raises(BadInput, match="another recipe"):
        train(cache, tmp_path, replace(RECIPE, margin=0.2))


def test_losses_of_weight_0_are_not_computed(cache: TokenCache, tmp_path: Path) -> None:
    recipe = replace(RECIPE, itc=0, box=0, contrast=0, epochs=1)
    made = model()
    (told,) = Trainer(made, cache, captions(made, cache), recipe, tmp_path).run()
    assert set(told) == {"arcface", "loss"}


def test_shuffled_captions_come_from_other_identities(cache: TokenCache, tmp_path: Path) -> None:
    made = model()
    trainer = Trainer(made, cache, captions(made, cache), replace(RECIPE, shuffled=True), tmp_path)
    own = cache.identities
    assert all(own[place] != own[other] for place, other in enumerate(trainer._texts))


def test_a_learning_rate_that_breaks_it_is_told(cache: TokenCache, tmp_path: Path) -> None:
    made = model()
    with torch.no_grad():
        made.identity.weight.fill_(torch.nan)
    with pytest.raises(BadInput, match="not a number"):
        list(Trainer(made, cache, captions(made, cache), RECIPE, tmp_path).run())


def test_cell_weights_sum_to_one_and_stay_in_the_box(cache: TokenCache) -> None:
    regions = np.arange(6)
    seen = cache.read(regions, np.ones(6, np.int64))
    weights = weights_of(seen, *cache.facts.shape[1:])
    np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-5)
    assert (weights >= 0).all()
    boxes = np.where(np.isnan(seen.boxes), seen.frames, seen.boxes)
    assert (weights[~cache.masks(boxes)] == 0).all()
