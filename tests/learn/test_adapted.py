import torch
from torch import Tensor

from lookalike.learn.models.adapted import Adapted, Towers
from lookalike.learn.models.x2vlm import X2VLM, X2VLMConfig


def model(language: float = 1.0) -> Adapted:
    torch.manual_seed(0)
    return Adapted(X2VLM(X2VLMConfig.tiny()), language).double().eval()


def towers(adapted: Adapted, batch: int = 5, words: int = 6, seed: int = 1) -> Towers:
    random = torch.Generator().manual_seed(seed)
    config = adapted.vlm.config
    pixels = torch.randn(
        batch, 3, config.resolution, config.resolution, generator=random, dtype=torch.float64
    )
    ids = torch.randint(4, config.vocabulary, (batch, words), generator=random)
    mask = torch.ones_like(ids)
    region = (torch.rand(batch, config.grid**2, generator=random, dtype=torch.float64) > 0.5).double()
    return Towers(adapted.vlm.vision(pixels), region, adapted.vlm.text(ids, mask), mask)


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, atol=1e-9, rtol=0)


def test_training_starts_at_the_frozen_towers_descriptor() -> None:
    adapted = model()
    seen = towers(adapted)
    share = seen.region / seen.region.sum(1, keepdim=True)
    frozen = torch.nn.functional.normalize((share[..., None] * seen.image[:, 1:]).sum(1), dim=1)
    close(adapted(seen).identity, frozen)


def test_descriptors_have_length_one_and_both_parts_weigh_as_told() -> None:
    for language in (0.0, 0.5, 1.0):
        adapted = model(language)
        rows = adapted.descriptors(towers(adapted))
        assert rows.shape == (5, adapted.dim)
        close(rows.norm(dim=1), torch.ones(5, dtype=torch.float64))
        width = adapted.vlm.config.vision_width
        close(rows[:, width:].norm(dim=1), language * rows[:, :width].norm(dim=1))


def test_text_queries_meet_the_language_part_alone() -> None:
    adapted = model()
    seen = towers(adapted)
    parts = adapted(seen)
    scores = adapted.text_queries(seen.text) @ adapted.joined(parts).t()
    close(scores, parts.text @ parts.image.t() / 2**0.5)
    close(adapted.agreement(parts), (parts.text @ parts.image.t()).diagonal())


def test_what_lies_outside_the_region_does_not_change_the_descriptor_but_may_move_the_box() -> None:
    adapted = model()
    torch.nn.init.normal_(adapted.identity.weight, std=0.1)  # so that f0 counts
    seen = towers(adapted)
    outside = (seen.region == 0).double()
    image = seen.image.clone()
    image[:, 1:] += outside[..., None] * torch.randn_like(image[:, 1:])
    image[:, 0] += 1
    other = Towers(image, seen.region, seen.text, seen.words)
    close(adapted.descriptors(seen), adapted.descriptors(other))
    before, after = adapted(seen, with_boxes=True).boxes, adapted(other, with_boxes=True).boxes
    assert before is not None and after is not None and not torch.allclose(before, after)


def test_the_region_does_not_reach_the_pass_that_predicts_its_box() -> None:
    adapted = model()
    seen = towers(adapted)
    moved = Towers(seen.image, 1 - seen.region, seen.text, seen.words)
    one, two = adapted(seen, with_boxes=True).boxes, adapted(moved, with_boxes=True).boxes
    assert one is not None and two is not None
    close(one, two)
    assert ((one > 0) & (one < 1)).all()


def test_the_language_part_does_not_look_at_the_caption() -> None:
    adapted = model()
    seen, others = towers(adapted), towers(adapted, seed=2)
    swapped = Towers(seen.image, seen.region, others.text, others.words)
    close(adapted(seen).image, adapted(swapped).image)


def test_a_batch_changes_nothing() -> None:
    adapted = model()
    torch.nn.init.normal_(adapted.identity.weight, std=0.1)
    seen = towers(adapted)
    alone = [
        adapted.descriptors(
            Towers(seen.image[b : b + 1], seen.region[b : b + 1], seen.text[b : b + 1], seen.words[b : b + 1])
        )
        for b in range(5)
    ]
    close(torch.cat(alone), adapted.descriptors(seen))
