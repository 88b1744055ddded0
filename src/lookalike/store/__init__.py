"""Where a catalogue's rows are kept and searched."""

from lookalike.store.local import LocalStore

__all__ = ["LocalStore"]
