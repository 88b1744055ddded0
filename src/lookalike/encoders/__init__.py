"""Encoders: regions of pictures -> descriptors."""

from lookalike.encoders.efficientnet import EfficientNet
from lookalike.encoders.histogram import ColourHistogram

__all__ = ["ColourHistogram", "EfficientNet"]
