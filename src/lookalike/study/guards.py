"""Which captions a trained model believes: the guards that a study compares."""

from __future__ import annotations

from lookalike.learn.models.adapted import Adapted
from lookalike.study.material import Material


def believed(
    guard: str, model: Adapted, material: Material, part: str, source: str, threshold: float | None
) -> list[str]:
    """The captions of a source for a part's regions (N,), "" where they are not believed."""
    said = material.one_each(source, part)
    if not guard:
        return said
    raise NotImplementedError(guard)
