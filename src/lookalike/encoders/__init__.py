"""Encoders: regions of pictures -> descriptors."""

from lookalike.encoders.adapted import AdaptedEncoder
from lookalike.encoders.efficientnet import EfficientNet
from lookalike.encoders.exported import OnnxBranches
from lookalike.encoders.histogram import ColourHistogram
from lookalike.encoders.hub import HubEncoder
from lookalike.encoders.minilm import MiniLM

__all__ = ["AdaptedEncoder", "ColourHistogram", "EfficientNet", "HubEncoder", "MiniLM", "OnnxBranches"]
