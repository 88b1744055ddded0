"""Captions: engines that run models, strategies of asking them, what checks and keeps the answers."""

from lookalike.captions.asking import Desk
from lookalike.captions.cache import Cache
from lookalike.captions.captioner import Guarded, ModelCaptioner
from lookalike.captions.chat import Engine
from lookalike.captions.local import Transformers
from lookalike.captions.pacing import BudgetSpent, Pace
from lookalike.captions.palette import Palette
from lookalike.captions.records import FileCaptions, Record, Writing
from lookalike.captions.running import Unread, is_done, records
from lookalike.captions.server import Server
from lookalike.captions.vocabulary import Vocabulary

__all__ = [
    "BudgetSpent",
    "Cache",
    "Desk",
    "Engine",
    "FileCaptions",
    "Guarded",
    "ModelCaptioner",
    "Pace",
    "Palette",
    "Record",
    "Server",
    "Transformers",
    "Unread",
    "Vocabulary",
    "Writing",
    "is_done",
    "records",
]
