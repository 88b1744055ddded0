"""Tests of what has to be pulled first; `make test` pulls it."""

import pytest

from lookalike import weights
from lookalike.errors import WeightsError


def _is_here(name: str) -> bool:
    try:
        return bool(weights.locate(name, weights.default_folder()))
    except WeightsError:
        return False


needs_minilm = pytest.mark.skipif(not _is_here("minilm"), reason="lookalike models pull minilm")
