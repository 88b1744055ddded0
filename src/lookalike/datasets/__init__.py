"""What is read: listings of pictures to index, and labelled data sets."""

from lookalike.datasets.labelled import Dataset, Labelled, Side
from lookalike.datasets.listed import Listed, Unlisted
from lookalike.datasets.listing import count, listing, origin_of
from lookalike.datasets.opening import open_dataset

__all__ = [
    "Dataset",
    "Labelled",
    "Listed",
    "Side",
    "Unlisted",
    "count",
    "listing",
    "open_dataset",
    "origin_of",
]
