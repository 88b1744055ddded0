"""The losses against the golden data of CLIP-ReID, naive loops, and what must hold at their edges.

X²-VLM's own values of ITC, ITM, MLM and box are compared in x2vlm/test_x2vlm_parity.py.
"""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from lookalike.errors import BadInput
from lookalike.learn import losses
from lookalike.learn.losses import Margin

GOLDEN = Path(__file__).parents[1] / "golden/clipreid/clipreid_losses.npz"


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    with np.load(GOLDEN) as arrays:
        return {key: torch.from_numpy(np.asarray(array)) for key, array in arrays.items()}


def close(found: Tensor, due: Tensor | float, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(
        found.detach(), torch.as_tensor(due, dtype=found.dtype), rtol=0, atol=tolerance
    )


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def units(*shape: int, seed: int = 0) -> Tensor:
    return F.normalize(random(*shape, seed=seed), dim=-1)


# CLIP-ReID


def test_clipreids_contrast_identity_and_triplets(golden: dict[str, Tensor]) -> None:
    features, texts, labels = (golden[k] for k in ("image_features", "class_text_features", "labels"))
    close(losses.supcon(features, labels, texts[labels], labels), golden["stage1_i2t"])
    close(losses.supcon(texts[labels], labels, features, labels), golden["stage1_t2i"])
    close(losses.image_to_text_ce(features, texts, labels), golden["stage2_i2tce_ls0.1"])
    close(losses.image_to_text_ce(features, texts, labels, smoothing=0), golden["i2tce_no_smoothing"])
    close(losses.identity(golden["stage2_i2tce_logits"], labels), golden["stage2_i2tce_ls0.1"])
    close(losses.triplet(features, labels), golden["triplet_margin_0.3"])
    close(losses.triplet(features, labels, margin=None), golden["triplet_margin_None"])
    positive, negative = losses.hardest(features, labels)
    close(positive, golden["triplet_ap_0.3"])
    close(negative, golden["triplet_an_0.3"])


@pytest.mark.parametrize(("scale", "angle"), [(30.0, 0.5), (64.0, 0.5), (30.0, 0.3), (45.25, 0.1)])
@pytest.mark.parametrize("case", ["arc", "arc2"])
def test_arcface_is_the_usual_one_and_its_gradient_is_finite(
    case: str, scale: float, angle: float, golden: dict[str, Tensor]
) -> None:
    """In `arc` a feature lies on its centre: the published code's gradient is NaN there."""
    setting = f"s{scale}_m{angle}"
    features = golden[f"{case}_features"].clone().requires_grad_()
    centres = golden["arc_weight"].clone().requires_grad_()
    labels, margin = golden["labels"], Margin(angle, scale=scale)
    logits = losses.arcface_logits(features, centres, labels, margin)
    close(logits, golden[f"{case}_logits_{setting}"])
    loss = losses.arcface(features, centres, labels, margin)
    close(loss, golden[f"{case}_loss_{setting}"])
    loss.backward()
    for found, name in ((features.grad, "feat"), (centres.grad, "weight")):
        due = golden[f"{case}_grad_{name}_{setting}"]
        assert found is not None and found.isfinite().all()
        usable = due.isfinite().all(dim=1)
        assert usable.sum() >= len(due) - (case == "arc")
        close(found[usable], due[usable])


def test_cosface(golden: dict[str, Tensor]) -> None:
    logits = losses.arcface_logits(
        golden["arc_features"], golden["arc_weight"], golden["labels"], Margin(angle=0, cosine=0.3, scale=30)
    )
    close(logits, golden["cosface_logits_s30_m0.3"])


# ArcFace and kin


def test_margins_by_hand() -> None:
    """cos(θ + m) on the plane, where angles can be laid out; where that would pass π, a line below."""
    centres = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    for theta in (0.1, 0.9, 2.0, math.pi - 0.51, math.pi - 0.49, 3.0):
        feature = 7 * torch.tensor([[math.cos(theta), math.sin(theta)]], dtype=torch.float64)
        logits = losses.arcface_logits(feature, centres, torch.tensor([0]), Margin(0.5, scale=10))
        bent = math.cos(theta + 0.5) if theta <= math.pi - 0.5 else math.cos(theta) - 0.5 * math.sin(0.5)
        close(logits[0], torch.tensor([10 * bent, 10 * math.sin(theta)]).double(), 1e-6)


def test_without_a_margin_arcface_is_a_scaled_softmax() -> None:
    features, centres, labels = random(6, 8), random(4, 8, seed=1), torch.tensor([0, 1, 2, 3, 0, 1])
    cosines = F.normalize(features) @ F.normalize(centres).t()
    close(losses.cosines_to(features, centres), cosines, 1e-12)
    found = losses.arcface(features, centres, labels, Margin(angle=0, scale=20))
    close(found, F.cross_entropy(20 * cosines, labels), 1e-12)


def test_opposite_and_collinear_features_have_finite_gradients() -> None:
    for dtype in (torch.float32, torch.float64):
        centres = random(3, 16).to(dtype).requires_grad_()
        nudges = torch.tensor([0, 1e-8, 1e-5, 1e-4, 1e-3, 1e-2], dtype=dtype)
        for sign in (1, -1):
            features = sign * centres.detach()[:1] + nudges[:, None] * random(6, 16, seed=2).to(dtype)
            features.requires_grad_()
            losses.arcface(
                features, centres, torch.zeros(6, dtype=torch.int64), Margin(0.5, scale=64)
            ).backward()
            assert features.grad is not None and features.grad.isfinite().all()
            assert features.grad.abs().max() < 100


def test_the_nearest_sub_centre_counts() -> None:
    features, labels = random(6, 8), torch.tensor([0, 1, 2, 3, 0, 1])
    centres = random(4, 3, 8, seed=1)
    each = torch.stack([losses.cosines_to(features, centres[:, k]) for k in range(3)])
    close(losses.cosines_to(features, centres), each.amax(dim=0), 1e-12)
    single = losses.arcface_logits(features, centres[:, :1], labels, Margin())
    close(single, losses.arcface_logits(features, centres[:, 0], labels, Margin()), 1e-12)


def test_an_angle_of_its_own_for_each_class() -> None:
    features, centres, labels = random(6, 8), random(4, 8, seed=1), torch.tensor([0, 1, 2, 3, 0, 1])
    angles = torch.tensor([0.0, 0.2, 0.4, 0.5])
    found = losses.arcface_logits(features, centres, labels, Margin(angles))
    for row, label in enumerate(labels.tolist()):
        alone = losses.arcface_logits(
            features[row : row + 1], centres, labels[row : row + 1], Margin(angles[label].item())
        )
        close(found[row], alone[0], 1e-6)


def test_rare_classes_get_the_larger_angle() -> None:
    angles = losses.adaptive_angles(torch.tensor([1, 16, 81, 2]))
    close(angles[:3], torch.tensor([0.5, 0.05 + 0.45 * (1 / 2 - 1 / 3) / (1 - 1 / 3), 0.05]), 1e-6)
    assert angles[1] < angles[3] < angles[0]
    close(losses.adaptive_angles(torch.tensor([4, 4])), torch.tensor([0.05, 0.05]))


@pytest.mark.parametrize("count", [1, 3, 5, 10, 99])
def test_sampled_centres_hold_the_batch_and_are_distinct(count: int) -> None:
    labels = torch.tensor([7, 2, 7, 0])
    chosen, there = losses.sampled_centres(labels, 10, count, torch.Generator().manual_seed(1))
    assert torch.equal(chosen[there], labels)
    assert len(set(chosen.tolist())) == len(chosen) == min(max(count, 3), 10)
    features, centres = random(4, 8), random(10, 8, seed=1)
    full = losses.arcface_logits(features, centres, labels, Margin())
    close(losses.arcface_logits(features, centres[chosen], there, Margin()), full[:, chosen], 1e-12)


def test_other_centres_are_drawn_evenly() -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = torch.zeros(10)
    for _ in range(600):
        drawn[losses.sampled_centres(torch.tensor([4]), 10, 4, generator)[0]] += 1
    others = drawn[torch.arange(10) != 4]
    assert drawn[4] == 600 and others.sum() == 1800 and (others - 200).abs().max() < 60


# X²-VLM at its edges


def test_itc_by_loops() -> None:
    image, text, who = units(5, 8), units(5, 8, seed=1), torch.tensor([3, 1, 3, 2, 1])
    total = 0.0
    for a, b in ((image, text), (text, image)):
        for i in range(5):
            scores = [(a[i] @ b[j] / 0.1).item() for j in range(5)]
            norm = math.log(sum(map(math.exp, scores)))
            alike = [j for j in range(5) if who[j] == who[i]]
            total += sum(norm - scores[j] for j in alike) / len(alike) / 10
    close(losses.itc(image, text, 0.1, who), total, 1e-12)
    close(losses.itc(image, text, 0.1, torch.arange(5)), losses.itc(image, text, 0.1), 1e-12)


def test_texts_that_are_trusted_less_count_less_where_they_are_right() -> None:
    image, text, who = units(5, 4), units(5, 4, seed=1), torch.tensor([0, 0, 1, 2, 2])
    close(
        losses.itc(image, text, 0.1, who, torch.full((5,), 0.7).double()),
        losses.itc(image, text, 0.1, who),
        1e-6,
    )
    trust = torch.tensor([1.0, 0.2, 0.5, 0.0, 0.9]).double()
    logits, total = image @ text.T / 0.1, torch.zeros(())
    for a in range(5):
        of_image, of_text = logits[a].log_softmax(dim=0), logits[:, a].log_softmax(dim=0)
        for b in range(5):
            if who[a] == who[b]:
                share = 1 / (who == who[a]).sum()
                total = total - share * (trust[b] * of_image[b] + trust[a] * of_text[b])
    close(losses.itc(image, text, 0.1, who, trust), total / trust.sum() / 2, 1e-5)


def test_agreement_is_a_half_at_the_mean_and_has_no_gradient() -> None:
    image = units(6, 4).requires_grad_()
    found = losses.agreement(image, units(6, 4, seed=1), 0.1)
    cosines = (image * units(6, 4, seed=1)).sum(dim=1)
    assert not found.requires_grad and found.argsort().tolist() == cosines.argsort().tolist()
    assert ((found > 0.5) == (cosines > cosines.mean())).all()
    close(losses.agreement(units(3, 4), units(3, 4), 0.1), torch.full((3,), 0.5))


def test_negatives_are_never_of_the_own_identity() -> None:
    who = torch.tensor([3, 1, 3, 2, 1])
    weights, _ = losses.hard_negative_weights(units(5, 8), units(5, 8, seed=1), 0.07, who)
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        assert (who[losses.hard_negatives(weights, generator)] != who).all()


def test_a_batch_of_one_identity_has_no_negatives() -> None:
    weights, _ = losses.hard_negative_weights(units(3, 8), units(3, 8), 0.07, torch.zeros(3))
    with pytest.raises(BadInput, match="one identity"):
        losses.hard_negatives(weights)


def test_mlm_without_a_masked_word_is_zero() -> None:
    scores = random(2, 3, 7).requires_grad_()
    loss = losses.mlm(scores, torch.full((2, 3), -100))
    loss.backward()
    assert loss == 0 and scores.grad is not None and (scores.grad == 0).all()


def giou(a: list[float], b: list[float]) -> float:
    def area(x0: float, y0: float, x1: float, y1: float) -> float:
        return max(x1 - x0, 0) * max(y1 - y0, 0)

    a, b = ([x - w / 2, y - h / 2, x + w / 2, y + h / 2] for x, y, w, h in (a, b))
    shared = area(max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3]))
    hull = area(min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3]))
    union = area(*a) + area(*b) - shared
    return shared / union - (hull - union) / hull


def test_box_by_hand() -> None:
    predicted = torch.tensor(
        [[0.5, 0.5, 1, 1], [0.2, 0.2, 0.2, 0.2], [0.4, 0.5, 0.3, 0.4]], dtype=torch.float64
    )
    target = torch.tensor(
        [[0.5, 0.5, 0.5, 0.5], [0.8, 0.8, 0.2, 0.4], [0.5, 0.5, 0.3, 0.2]], dtype=torch.float64
    )
    each = [giou(a, b) for a, b in zip(predicted.tolist(), target.tolist(), strict=True)]
    assert each[0] == 0.25 and each[1] < 0
    l1, overlap = losses.box(predicted, target)
    close(l1, (1.0 + 1.4 + 0.3) / 3, 1e-12)
    close(overlap, sum(1 - value for value in each) / 3, 1e-12)
    l1, overlap = losses.box(predicted, target, torch.tensor([0, 1, 0]))
    close(l1, (1.0 + 0.3) / 2, 1e-12)
    close(overlap, (2 - each[0] - each[2]) / 2, 1e-12)


def test_a_batch_without_boxes_costs_nothing() -> None:
    predicted = torch.rand(3, 4, requires_grad=True)
    l1, overlap = losses.box(predicted, torch.rand(3, 4), torch.ones(3))
    (l1 + overlap).backward()
    assert l1 == 0 and overlap == 0 and predicted.grad is not None and (predicted.grad == 0).all()


@pytest.mark.parametrize("sizes", [(-0.1, 0.2), (0.0, 0.0), (1e-30, 1e-30)])
def test_boxes_without_area_give_finite_gradients(sizes: tuple[float, float]) -> None:
    predicted = torch.tensor([[0.5, 0.5, *sizes], [0.5, 0.5, 0.2, 0.2]], requires_grad=True)
    l1, overlap = losses.box(predicted, torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.4, 0.4, 0.2, 0.2]]))
    (l1 + overlap).backward()
    assert overlap.isfinite() and (overlap == 0) == (sizes[0] < 0)
    assert predicted.grad is not None and predicted.grad.isfinite().all()


# contrast and triplets


def test_supcon_by_loops() -> None:
    features, labels = units(6, 8), torch.tensor([0, 1, 0, 2, 1, 0])
    rows = []
    for i in range(6):
        others = [j for j in range(6) if j != i]
        scores = {j: (features[i] @ features[j] / 0.2).item() for j in others}
        norm = math.log(sum(map(math.exp, scores.values())))
        alike = [j for j in others if labels[j] == labels[i]]
        if alike:
            rows.append(sum(norm - scores[j] for j in alike) / len(alike))
    assert len(rows) == 5  # label 2 is alone
    close(losses.supcon(features, labels, temperature=0.2), sum(rows) / len(rows), 1e-12)


def test_supcon_and_triplets_where_nothing_is_to_learn() -> None:
    features = random(3, 4).requires_grad_()
    alone = losses.supcon(features, torch.arange(3))
    same = losses.triplet(features, torch.zeros(3, dtype=torch.int64))
    soft = losses.triplet(features, torch.zeros(3, dtype=torch.int64), margin=None)
    (alone + same + soft).backward()
    assert (alone, same, soft) == (0, 0, 0)
    assert features.grad is not None and (features.grad == 0).all()


def test_equal_features_give_finite_triplet_gradients() -> None:
    features = torch.ones(4, 8, requires_grad=True)
    losses.triplet(features, torch.tensor([0, 0, 1, 1])).backward()
    assert features.grad is not None and features.grad.isfinite().all()


# precision


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_losses_are_full_within_autocast(dtype: torch.dtype) -> None:
    image, text, labels = units(6, 32).float(), units(6, 32, seed=1).float(), torch.tensor([0, 1, 2, 0, 1, 2])
    centres = random(3, 32, seed=2).float()

    def each() -> list[Tensor]:
        return [
            losses.itc(image, text, 0.07, labels),
            *losses.hard_negative_weights(image, text, 0.07, labels),
            losses.itm(image[:, :2], text[:, :2]),
            losses.mlm(image, labels),
            *losses.box(image[:, :4].abs(), text[:, :4].abs()),
            losses.arcface(image, centres, labels, Margin()),
            losses.triplet(image, labels),
            losses.identity(image, labels),
            losses.supcon(image, labels, temperature=0.1),
            losses.image_to_text_ce(image, centres, labels),
        ]

    due = each()
    with torch.autocast("cpu", dtype):
        found = each()
    assert all(torch.equal(a, b) for a, b in zip(found, due, strict=True))
    halved = losses.arcface(image.to(dtype), centres.to(dtype), labels, Margin(scale=64))
    assert halved.dtype == torch.float32 and halved.isfinite()
