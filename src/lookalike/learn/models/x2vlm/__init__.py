"""X²-VLM (Zeng et al., arXiv 2211.12402), the authors' model key for key: BEiT v2, BERT and their fusion.

`load_checkpoint` opens an official file; `X2VLM(X2VLMConfig.base())` starts from random weights.
"""

from lookalike.learn.models.x2vlm.checkpoint import LoadReport, load_checkpoint
from lookalike.learn.models.x2vlm.config import HEADS, X2VLMConfig
from lookalike.learn.models.x2vlm.model import X2VLM, region_mask
from lookalike.learn.models.x2vlm.pixels import to_pixels
from lookalike.learn.models.x2vlm.words import Words
from lookalike.words import clean_caption

__all__ = [
    "HEADS",
    "X2VLM",
    "LoadReport",
    "Words",
    "X2VLMConfig",
    "clean_caption",
    "load_checkpoint",
    "region_mask",
    "to_pixels",
]
