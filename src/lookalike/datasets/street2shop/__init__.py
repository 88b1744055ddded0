"""Street2Shop: a drawn data set in DeepFashion2's format, for where the real one cannot be had."""

from lookalike.datasets.street2shop.writing import VERSION, Made, make

__all__ = ["VERSION", "Made", "make"]
