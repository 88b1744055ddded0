"""Encoders: regions of pictures -> descriptors."""

from lookalike.encoders.efficientnet import EfficientNet
from lookalike.encoders.histogram import ColourHistogram
from lookalike.encoders.hub import HubEncoder

__all__ = ["ColourHistogram", "EfficientNet", "HubEncoder"]
