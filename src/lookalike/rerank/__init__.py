"""Re-rankers: reorder a shortlist from its descriptors."""

from lookalike.rerank.chain import Chain
from lookalike.rerank.diffusion import Diffusion
from lookalike.rerank.expansion import DatabaseAugmentation, QueryExpansion
from lookalike.rerank.geometric import Geometric
from lookalike.rerank.kreciprocal import KReciprocal
from lookalike.rerank.pair_match import PairMatch
from lookalike.rerank.superglobal import SuperGlobal

__all__ = [
    "Chain",
    "DatabaseAugmentation",
    "Diffusion",
    "Geometric",
    "KReciprocal",
    "PairMatch",
    "QueryExpansion",
    "SuperGlobal",
]
