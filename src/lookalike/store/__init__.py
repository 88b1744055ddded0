"""Where a catalogue's rows are kept and searched."""

from lookalike.store.address import is_address
from lookalike.store.database import replacing, room_for
from lookalike.store.local import LocalStore

__all__ = ["LocalStore", "is_address", "replacing", "room_for"]
