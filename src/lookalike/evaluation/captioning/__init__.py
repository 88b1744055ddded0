"""Measuring captions: what they say, and what they cost."""
