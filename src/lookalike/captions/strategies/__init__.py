"""Ways of finding out what a region shows by asking models: async functions that return `Told`."""

from lookalike.captions.strategies.attributes import attributes
from lookalike.captions.strategies.dialogue import dialogue
from lookalike.captions.strategies.targeted import targeted
from lookalike.captions.strategies.told import Strategy, Told

__all__ = ["STRATEGIES", "Told", "attributes", "dialogue", "targeted"]

STRATEGIES: dict[str, Strategy] = {"attributes": attributes, "dialogue": dialogue, "targeted": targeted}
