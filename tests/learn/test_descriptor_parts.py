"""The descriptor's parts: what each sees, and what must not reach it."""

import pytest
import torch
from torch import Tensor

from lookalike.learn.models.adapted import Adapted, Seen, Towers
from lookalike.learn.models.compact import compact
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


def seen(adapted: Adapted, of: Towers) -> Seen:
    return adapted.region(of.image, of.region)


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, atol=1e-9, rtol=0)


def test_training_starts_at_the_frozen_towers_descriptor() -> None:
    adapted = model()
    of = towers(adapted)
    share = of.region / of.region.sum(1, keepdim=True)
    frozen = torch.nn.functional.normalize((share[..., None] * of.image[:, 1:]).sum(1), dim=1)
    close(adapted.identity_part(seen(adapted, of), of.text, of.words), frozen)


def test_descriptors_have_length_one_and_both_parts_weigh_as_told() -> None:
    for language in (0.0, 0.5, 1.0):
        adapted = model(language)
        rows = adapted(towers(adapted))
        assert rows.shape == (5, adapted.dim)
        close(rows.norm(dim=1), torch.ones(5, dtype=torch.float64))
        width = adapted.vlm.config.vision_width
        close(rows[:, width:].norm(dim=1), language * rows[:, :width].norm(dim=1))


def test_text_queries_meet_the_language_part_alone() -> None:
    adapted = model()
    of = towers(adapted)
    language = adapted.language_part(seen(adapted, of))
    scores = adapted.text_queries(of.text) @ adapted(of).t()
    alike = adapted.vlm.text_embedding(of.text) @ language.t()
    close(scores, alike / 2**0.5)
    close(adapted.agreement(seen(adapted, of), of.text), alike.diagonal())


def test_what_lies_outside_the_region_does_not_change_the_descriptor_but_may_move_the_box() -> None:
    adapted = model()
    torch.nn.init.normal_(adapted.identity.weight, std=0.1)  # so that f0 counts
    of = towers(adapted)
    outside = (of.region == 0).double()
    image = of.image.clone()
    image[:, 1:] += outside[..., None] * torch.randn_like(image[:, 1:])
    image[:, 0] += 1
    close(adapted(of), adapted(Towers(image, of.region, of.text, of.words)))
    before, after = (adapted.boxes(each, of.text, of.words) for each in (of.image, image))
    assert not torch.allclose(before, after)
    assert ((before > 0) & (before < 1)).all()


def test_nothing_of_the_first_token_reaches_the_box() -> None:
    adapted = model()
    of = towers(adapted)
    image = of.image.clone()
    image[:, 0] = seen(adapted, of).v0  # the region's mean would tell where it is
    close(adapted.boxes(of.image, of.text, of.words), adapted.boxes(image, of.text, of.words))


def test_what_is_imagined_and_the_language_part_do_not_look_at_the_caption_but_identity_may() -> None:
    adapted = model()
    torch.nn.init.normal_(adapted.identity.weight, std=0.1)
    of, others = towers(adapted), towers(adapted, seed=2)
    guess = adapted.imagined_caption(seen(adapted, of))
    close(guess.norm(dim=1), torch.ones(5, dtype=torch.float64))
    swapped = Towers(of.image, of.region, others.text, others.words)
    width = adapted.vlm.config.vision_width
    one, two = (torch.nn.functional.normalize(adapted(each)[:, width:], dim=1) for each in (of, swapped))
    close(one, two)
    assert not torch.allclose(adapted(of)[:, :width], adapted(swapped)[:, :width])


def test_a_batch_changes_nothing() -> None:
    adapted = model()
    torch.nn.init.normal_(adapted.identity.weight, std=0.1)
    of = towers(adapted)
    alone = [
        adapted(Towers(of.image[b : b + 1], of.region[b : b + 1], of.text[b : b + 1], of.words[b : b + 1]))
        for b in range(5)
    ]
    close(torch.cat(alone), adapted(of))


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_the_first_state_alone_is_that_of_the_whole_fusion(layers: int) -> None:
    torch.manual_seed(layers)
    config = X2VLMConfig(**{
        **{name: getattr(X2VLMConfig.tiny(), name) for name in X2VLMConfig.__dataclass_fields__},
        "fusion_layers": layers,
    })  # fmt: skip
    vlm = X2VLM(config).double().eval()
    text, image = torch.randn(4, 7, 32).double(), torch.randn(4, 17, 48).double()
    words = (torch.arange(7) < torch.tensor([7, 2, 5, 1])[:, None]).long()
    shown = (torch.rand(4, 17) > 0.4).long()
    for tokens, mask in ((image, shown), (image, None), (None, None)):
        whole = vlm.fuse(text, words, tokens, mask)
        close(vlm.fuse(text, words, tokens, mask, first_only=True), whole[:, :1])


def test_compact_takes_tokens_and_states_and_trains_all_that_it_has() -> None:
    adapted = Adapted(compact())
    image, region = torch.randn(3, 82, 352), torch.rand(3, 81)
    text, words = torch.randn(3, 5, 384), torch.ones(3, 5, dtype=torch.int64)
    assert adapted(Towers(adapted.vlm.vision(image), region, text, words)).shape == (3, adapted.dim)
    assert adapted.dim == 352 + 256
    assert all(parameter.requires_grad for parameter in adapted.parameters())
    assert sum(parameter.numel() for parameter in adapted.parameters()) < 5e6  # fits into 10 MB as fp16
