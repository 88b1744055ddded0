"""Where a catalogue's rows are kept and searched."""

from lookalike.store.address import is_address
from lookalike.store.database import replacing, room_for
from lookalike.store.local import LocalStore
from lookalike.store.plans import Plan, Planned
from lookalike.store.shards import Build

__all__ = ["Build", "LocalStore", "Plan", "Planned", "is_address", "replacing", "room_for"]
