"""What is read: listings of pictures to index."""

from lookalike.datasets.listing import Listed, Unlisted, count, listing, origin_of

__all__ = ["Listed", "Unlisted", "count", "listing", "origin_of"]
