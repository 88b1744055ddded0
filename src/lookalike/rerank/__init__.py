"""Re-rankers: reorder a shortlist from its descriptors."""

from lookalike.rerank.superglobal import SuperGlobal

__all__ = ["SuperGlobal"]
