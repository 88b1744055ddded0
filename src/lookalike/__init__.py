"""Find the same product in a catalogue from a photo."""

__version__ = "0.1.0"
