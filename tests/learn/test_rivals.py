"""The rivals: their losses and poolings, what they learn on drawn cells, and geometric verification."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lookalike import pooling
from lookalike.datasets import Labelled, Side
from lookalike.errors import BadInput, WeightsError
from lookalike.learn.batches import Steps
from lookalike.learn.recipes import Recipe, recipe
from lookalike.learn.rivals import (
    RIVALS,
    clipreid,
    delg,
    fitting,
    load_rival,
    reid,
    superglobal,
    train_rival,
    verified,
)
from lookalike.learn.rivals.trained import Rival, Trunk
from lookalike.learn.rivals.verified import local_features
from lookalike.learn.scoring import average_precisions, mean_average_precision
from lookalike.learn.sources import Looked
from lookalike.learn.tokens import SIDES

GOLDEN = Path(__file__).parents[1] / "golden" / "superglobal"
TRAINED = [name for name in RIVALS if "frozen" not in name]
SIDE, CHANNELS, SEEN = 5, 12, 4
TRUNK = Trunk(CHANNELS, SIDE)


class Drawn:
    """Identities that differ in eight channels, under loud noise in the four others; four regions of each."""

    def __init__(self, identities: int = 40, captioned: bool = True) -> None:
        random = np.random.default_rng(7)
        self.identities = np.repeat(np.arange(identities), SEEN)
        self.sides = np.tile([SIDES.index(side) for side in (Side.QUERY, *[Side.GALLERY] * 3)], identities)
        says = [("blue", "red")[number % 2] for number in range(identities)]
        self.regions = tuple(
            Labelled(
                f"{place}", "none", SIDES[side], f"{identity}", f"{identity}",
                captions=(f"a {says[identity]} one, number {identity}",) if captioned else (),
            )
            for place, (identity, side) in enumerate(zip(self.identities, self.sides, strict=True))
        )  # fmt: skip
        self.facts = {"dataset": "drawn"}
        self._looks = random.normal(size=(identities, 8))

    def look(self, regions: np.ndarray, draws: np.ndarray | None = None) -> Looked:
        seeds = np.zeros_like(regions) if draws is None else draws % 4
        cells = np.empty((len(regions), 1 + SIDE**2, CHANNELS), np.float32)
        for row, (place, seed) in enumerate(zip(regions.tolist(), seeds.tolist(), strict=True)):
            random = np.random.default_rng([place, seed])
            cells[row, :, :8] = self._looks[self.identities[place]] + random.normal(0, 0.1, (1, 8))
            cells[row, :, 8:] = random.normal(0, 1.5, (1, 4))
            cells[row] += random.normal(0, 0.2, cells[row].shape)
        shares = torch.full((len(regions), SIDE**2), 1 / SIDE**2)
        return Looked(torch.from_numpy(cells), shares, torch.full((len(regions), 4), torch.nan))


class Spoken:
    """Each text's words as states, [CLS] and [SEP] round them; the first state is the sum of the others."""

    def of(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        rows = []
        for text in texts:
            words = [
                torch.tensor([ord(c) for c in word]).sum().item() for word in ["cls", *text.split(), "sep"]
            ]
            states = np.stack([np.random.default_rng(int(word)).normal(size=24) for word in words])
            states[0] = states.sum(axis=0)
            rows.append(torch.from_numpy(states.astype(np.float32)))
        lengths = torch.tensor([len(row) for row in rows])
        states = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        return states, (torch.arange(states.shape[1]) < lengths[:, None]).long()


def short(epochs: int) -> Recipe:
    return recipe("compact", [f"epochs={epochs}"])


@pytest.fixture(scope="module")
def source() -> Drawn:
    return Drawn()


@pytest.mark.parametrize("name", TRAINED)
def test_a_rival_learns_what_its_untrained_self_does_not_see(name: str, source: Drawn) -> None:
    torch.manual_seed(0)
    before = Rival(name, {}, 0, TRUNK, RIVALS[name].network(TRUNK))
    after = train_rival(name, source, Spoken(), 0, short(8))
    assert after.steps == 8 * 2 * (4 if name == "clip-reid" else 1)  # two batches see 40 identities
    untrained, trained = (mean_average_precision(each.describe(source), source) for each in (before, after))
    assert trained > untrained + 0.03


@pytest.mark.parametrize("name", RIVALS)
def test_a_saved_rival_describes_as_before_and_damage_is_noticed(
    name: str, source: Drawn, tmp_path: Path
) -> None:
    rival = train_rival(name, source, Spoken(), 3, short(1))
    found = rival.describe(source)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    rival.save(tmp_path)
    again = load_rival(tmp_path)
    assert (again.name, again.steps, again.trunk) == (name, rival.steps, TRUNK)
    assert again.settings == json.loads(json.dumps(dict(rival.settings)))
    np.testing.assert_array_equal(again.describe(source), found)
    weights = tmp_path / "rival.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    with pytest.raises(WeightsError, match="damaged"):
        load_rival(tmp_path)
    with pytest.raises(WeightsError, match="no rival"):
        load_rival(tmp_path / "nothing")


def test_a_seed_decides_and_the_callers_random_state_stays(source: Drawn) -> None:
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    one, other = (train_rival("reid", source, Spoken(), 5, short(1)).describe(source) for _ in range(2))
    assert torch.equal(torch.rand(3), expected)
    np.testing.assert_array_equal(one, other)
    assert not np.allclose(one, train_rival("reid", source, Spoken(), 6, short(1)).describe(source))


def test_progress_counts_all_stages(source: Drawn) -> None:
    told: list[tuple[int, int | None]] = []
    rival = train_rival("clip-reid", source, Spoken(), 0, short(1), lambda *step: told.append(step))
    assert told == [(step, rival.steps) for step in range(1, rival.steps + 1)]


def test_what_cannot_be_trained_is_said(source: Drawn) -> None:
    with pytest.raises(BadInput, match="delgg"):
        train_rival("delgg", source, Spoken(), 0)
    with pytest.raises(BadInput, match="captions"):
        train_rival("clip-reid", Drawn(captioned=False), Spoken(), 0)
    with pytest.raises(BadInput, match="identities"):
        train_rival("reid", Drawn(identities=9), Spoken(), 0)


def test_gem_is_the_mean_at_p_1_and_pooling_s_own_at_others() -> None:
    torch.manual_seed(0)
    cells, region = torch.rand(3, 20, 5) + 0.1, torch.rand(3, 20)
    mean = (cells * region[:, :, None]).sum(dim=1) / region.sum(dim=1, keepdim=True)
    torch.testing.assert_close(fitting.gem(cells, region, 1.0), mean)
    maps = cells.transpose(1, 2).reshape(3, 5, 4, 5).numpy()
    shares = (region / region.sum(dim=1, keepdim=True)).reshape(3, 4, 5).numpy()
    np.testing.assert_allclose(fitting.gem(cells, region), pooling.gem(maps, 3, shares=shares), rtol=1e-5)


def test_superglobals_pooling_equals_its_authors() -> None:
    with np.load(GOLDEN / "pooling_float64.npz") as data:
        maps = torch.from_numpy(data["fmap"])
        found = superglobal.regional_gem(maps)
        np.testing.assert_allclose(found, data["rgem"], atol=1e-12)
        cells = found.flatten(2).transpose(1, 2)
        plus = fitting.gem(cells, torch.ones(cells.shape[:2], dtype=torch.float64), superglobal.PLUS, 1e-8)
        np.testing.assert_allclose(plus, data["gemp_after_rgem"], atol=1e-10)


def test_regional_reads_cells_row_by_row() -> None:
    torch.manual_seed(0)
    cells = torch.rand(2, SIDE**2, 3)
    maps = pooling.relup(cells.transpose(1, 2).reshape(2, 3, SIDE, SIDE).numpy())
    expected = pooling.gem(pooling.regional_gem(maps), superglobal.PLUS)
    found = superglobal.regional(cells, torch.ones(2, SIDE**2), SIDE)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_delg_s_local_losses_move_neither_the_global_branch_nor_the_trunk() -> None:
    torch.manual_seed(0)
    network, head = delg.Delg(TRUNK), delg.LocalHead(CHANNELS, 5)
    cells, region = torch.randn(8, SIDE**2, CHANNELS, requires_grad=True), torch.ones(8, SIDE**2)
    head(network.local, cells, torch.arange(8) % 5).backward()
    assert cells.grad is None
    told = {name for name, each in network.named_parameters() if each.grad is not None}
    assert told == {f"local.{name}" for name, _ in network.local.named_parameters()}
    network.zero_grad(set_to_none=True)
    network(cells, region).sum().backward()
    told = {name.split(".")[0] for name, each in network.named_parameters() if each.grad is not None}
    assert told == {"stage", "whitening"}


def test_delg_s_local_losses_are_as_written() -> None:
    torch.manual_seed(0)
    network, head = delg.Delg(TRUNK).eval(), delg.LocalHead(CHANNELS, 5)
    cells, labels = torch.randn(4, SIDE**2, CHANNELS), torch.tensor([0, 1, 2, 2])
    short, again, attention = network.local(cells)
    assert short.shape == (4, SIDE**2, delg.LOCAL) and (attention > 0).all()
    unit = cells / cells.norm(dim=2, keepdim=True)
    seen = torch.stack([(a[:, None] * u).sum(dim=0) / SIDE**2 for a, u in zip(attention, unit, strict=True)])
    right = head.classifier(seen).log_softmax(dim=1)[torch.arange(4), labels]
    torch.testing.assert_close(
        head(network.local, cells, labels), -right.mean() + 10 * (again - cells).square().mean()
    )


def test_the_centre_loss_is_0_on_the_centres_and_the_neck_has_no_bias(source: Drawn) -> None:
    centres, labels = torch.randn(5, 8), torch.tensor([3, 0, 3])
    assert reid.centre(centres[labels], centres, labels) == 0
    moved = centres[labels] + torch.tensor([2.0, 0, 0])[:, None] * torch.eye(8)[0]
    torch.testing.assert_close(reid.centre(moved, centres, labels), torch.tensor(4 / 3))
    network = train_rival("reid", source, Spoken(), 0, short(2)).network
    assert isinstance(network, reid.BNNeck)
    assert not network.neck.bias.any() and network.neck.weight.std() > 0


def test_how_identities_are_numbered_does_not_change_the_loss() -> None:
    torch.manual_seed(0)
    raw, labels, order = torch.randn(12, reid.WIDTH), torch.arange(12) // 3, torch.tensor([2, 0, 3, 1])
    heads, others = reid.Heads(reid.WIDTH, 4), reid.Heads(reid.WIDTH, 4)
    with torch.no_grad():
        heads.centres.normal_()
        heads.classifier.weight.normal_()
        others.centres[order] = heads.centres
        others.classifier.weight[order] = heads.classifier.weight
    torch.testing.assert_close(heads(raw, raw, labels), others(raw, raw, order[labels]))


def test_prompts_learn_their_identity_and_leave_the_rest_as_it_was(source: Drawn) -> None:
    torch.manual_seed(0)
    recipe = Recipe(epochs=8)
    steps = Steps(source, Spoken(), recipe, 0, 1)
    image, text = clipreid.ImageSide(TRUNK), clipreid.TextSide(24)
    clipreid.fit_space(image, text, steps, recipe)
    before = {name: value.clone() for name, value in text.state_dict().items()}
    seen = clipreid.embedded(image, source)
    text.requires_grad_(False)
    prompts = clipreid.Prompts(40, Spoken().of([""])[0][0])

    numbers = torch.from_numpy(source.identities)

    def share_named() -> float:
        with torch.no_grad():
            said = prompts(text.eval(), torch.arange(40))
        return float(((seen @ said.T).argmax(dim=1) == numbers).float().mean())

    untrained = share_named()
    clipreid.fit_prompts(prompts, text, seen, source, recipe)
    assert share_named() > untrained + 0.2
    assert all(torch.equal(value, before[name]) for name, value in text.state_dict().items())


class Laid(Drawn):
    """All regions have the same cells; an identity is the way they are laid out."""

    def pieces(self, identity: int) -> np.ndarray:
        return np.random.default_rng(0).normal(size=(SIDE**2, CHANNELS))

    def look(self, regions: np.ndarray, draws: np.ndarray | None = None) -> Looked:
        looked = super().look(regions, draws)
        for row, place in enumerate(regions.tolist()):
            pieces = self.pieces(self.identities[place])
            order = np.random.default_rng(self.identities[place]).permutation(SIDE**2)
            noise = np.random.default_rng([1, place]).normal(0, 0.05, (SIDE**2, CHANNELS))
            looked.image[row, 1:] = torch.from_numpy(pieces[order] + noise)
        return looked


class Unlike(Laid):
    """Each identity has cells of its own."""

    def pieces(self, identity: int) -> np.ndarray:
        return np.random.default_rng([2, identity]).normal(size=(SIDE**2, CHANNELS))


@pytest.fixture(scope="module")
def laid() -> tuple[Rival, Laid]:
    pytest.importorskip("cv2")
    source = Laid()
    torch.manual_seed(0)
    return Rival("delg", {}, 0, TRUNK, delg.Delg(TRUNK).eval()), source


def test_verification_finds_the_layout_that_global_descriptors_miss(laid: tuple[Rival, Laid]) -> None:
    rival, source = laid
    assert average_precisions(rival.describe(source), source).mean() < 0.5
    found = verified(rival, source, first=len(source.regions))
    assert found.right == 1 and (found.ap == 1).all() and (found.first == 1).all()


def test_pairs_of_unlike_cells_are_not_verified(laid: tuple[Rival, Laid]) -> None:
    found = verified(laid[0], Unlike())
    assert found.right == 1 and found.wrong < 0.05


def test_a_short_list_of_one_changes_nothing(laid: tuple[Rival, Laid]) -> None:
    rival, source = laid
    expected = average_precisions(rival.describe(source), source)
    np.testing.assert_allclose(verified(rival, source, first=1).ap, expected)


def test_local_features_lie_in_the_region_those_of_most_attention_first(laid: tuple[Rival, Laid]) -> None:
    rival, source = laid
    network = rival.network
    assert isinstance(network, delg.Delg)

    class Half(Laid):
        def look(self, regions: np.ndarray, draws: np.ndarray | None = None) -> Looked:
            looked = super().look(regions, draws)
            inside = torch.arange(SIDE**2) % SIDE < 3  # the left half
            return replace(looked, region=looked.region * inside)

    few = local_features(rival, Half(), most=5)
    assert len(few) == len(source.regions) and all(len(each) == 5 for each in few)
    every = local_features(rival, Half())[0]
    assert len(every) == 3 * SIDE and every.points[:, 0].max() < every.points[:, 1].max()
    with torch.no_grad():
        _, _, attention = network.local(source.look(np.arange(1)).image[:, 1:])
    left = attention[0].view(SIDE, SIDE)[:, :3]
    best = np.argsort(-left.flatten().numpy(), kind="stable")[:5]
    cell = every.points[:, 1].max() / (SIDE - 1)
    np.testing.assert_allclose(few[0].points, np.stack([best % 3, best // 3], axis=1) * cell, rtol=1e-5)


def test_only_delg_has_local_features(source: Drawn) -> None:
    with pytest.raises(BadInput, match="no local features"):
        verified(Rival("reid", {}, 0, TRUNK, reid.BNNeck(TRUNK)), source)
