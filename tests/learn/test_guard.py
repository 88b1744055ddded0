"""The guard: calibrated on the sentences of held-out captions."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from garments import Spelled, cells, model

from lookalike.learn.scoring import calibrated, caption_trust, described, sentence_agreements
from lookalike.learn.states import Frozen
from lookalike.words import sentences


def test_sentences_end_at_their_marks_and_at_lines() -> None:
    assert sentences("A dress, 1.5 m long. It is red! Is it? Yes; so\nsaid\r\n the label.") == [
        "A dress, 1.5 m long.", "It is red!", "Is it?", "Yes;", "so", "said", "the label.",
    ]  # fmt: skip
    assert sentences("a red dress") == ["a red dress"]
    assert sentences("") == sentences(" \n ") == sentences("... !? .") == []


def test_a_share_of_right_sentences_is_believed() -> None:
    right = np.linspace(0.2, 0.8, 101, dtype=np.float32)
    guard = calibrated(right, np.array([0.1, 0.2, 0.225, 0.3, 0.9], np.float32))
    assert abs(guard.threshold - 0.23) < 1e-6
    assert guard.believed == 96 / 101 and guard.refused == 0.6
    nothing = calibrated(np.zeros(0, np.float32), np.zeros(0, np.float32))
    assert nothing.threshold == -1 and nothing.believed == 1


def test_regions_are_asked_about_their_own_sentences_and_another_identity_s(tmp_path: Path) -> None:
    source, _ = cells(tmp_path)
    identities = source.identities
    said = [
        (f"piece {identity}", f"It is piece {identity}. It is a piece.") if region.captions else ()
        for region, identity in zip(source.regions, identities.tolist(), strict=True)
    ]
    told = SimpleNamespace(
        regions=[replace(r, captions=some) for r, some in zip(source.regions, said, strict=True)],
        identities=identities,
        look=source.look,
    )
    claims = [(place, claim) for place, some in enumerate(said) for text in some for claim in sentences(text)]
    texts, adapted = Frozen(Spelled(), [claim for _, claim in claims], tmp_path / "claims"), model().eval()
    right, wrong = sentence_agreements(adapted, told, texts)
    seen = described(adapted, source, texts).language
    with torch.no_grad():
        embedded = adapted.vlm.text_embedding(texts.of([claim for _, claim in claims])[0]).numpy()
    due = (seen[[place for place, _ in claims]] * embedded).sum(axis=1)
    np.testing.assert_allclose(right, due, atol=1e-5)
    half = len(claims) // 2
    others = [
        float(seen[place] @ embedded[number - half])
        for number, (place, _) in enumerate(claims)
        if claims[number - half][1] != "It is a piece."  # true of all pieces
        and identities[place] != identities[claims[number - half][0]]
    ]
    assert 0 < len(others) < len(claims)
    np.testing.assert_allclose(wrong, others, atol=1e-5)


def test_without_captions_there_is_nothing_to_compare(tmp_path: Path) -> None:
    source, texts = cells(tmp_path, captioned=False)
    right, wrong = sentence_agreements(model(), source, texts)
    assert right.shape == wrong.shape == (0,)


def test_trust_is_of_whole_captions_and_another_identity_s(tmp_path: Path) -> None:
    source, _ = cells(tmp_path)
    identities = source.identities
    said = [
        ("short", f"piece {identity} by name", f"piece {identity}, in many more words than that")
        if region.captions
        else ()
        for region, identity in zip(source.regions, identities.tolist(), strict=True)
    ]
    told = SimpleNamespace(
        regions=[replace(r, captions=some) for r, some in zip(source.regions, said, strict=True)],
        identities=identities,
        look=source.look,
    )
    middle = [some[1] if some else "" for some in said]
    texts, adapted = Frozen(Spelled(), [*middle], tmp_path / "captions"), model().eval()
    trust = caption_trust(adapted, told, texts)
    seen = described(adapted, source, texts).language
    with torch.no_grad():
        embedded = adapted.vlm.text_embedding(texts.of(middle)[0]).numpy()
    there = np.array([bool(caption) for caption in middle])
    own = (seen * embedded).sum(axis=1)[there]
    assert trust is not None and abs(trust.right - own.mean()) < 1e-5
    assert trust.wrong != trust.right and trust.deviation > 0
    silent = SimpleNamespace(
        regions=[replace(r, captions=()) for r in source.regions], identities=identities, look=source.look
    )
    assert caption_trust(adapted, silent, texts) is None
