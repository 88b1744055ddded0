import pytest
import torch
from torch import Tensor
from x2vlm_golden import drawn, tensors

from lookalike.learn.models.x2vlm import X2VLM, X2VLMConfig


@pytest.fixture(scope="session")
def tiny_state() -> dict[str, Tensor]:
    """The golden model's weights, without tied duplicates and computed buffers."""
    with torch.device("meta"):
        return drawn(X2VLM(X2VLMConfig.tiny()).state_dict(), "x2vlm-tiny-v1")


@pytest.fixture
def tiny(tiny_state: dict[str, Tensor]) -> X2VLM:
    """The golden model in float32, in evaluation mode."""
    model = X2VLM(X2VLMConfig.tiny())
    model.load_state_dict(tiny_state, strict=False)
    return model.eval()


@pytest.fixture(scope="session")
def inputs() -> dict[str, Tensor]:
    return tensors("tiny_inputs.npz")
