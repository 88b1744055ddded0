"""Everything lookalike raises on purpose.

LookalikeError            what went wrong; `.hint` is the next thing to type or check
├── BadPicture            a picture that cannot be used: broken, too large, no picture at all
├── BadInput              a wrong option, box, filter, table or name
├── MissingExtra          an optional package is not installed
├── WeightsError          model weights are absent, damaged or not what their record says
├── ProcessLost           another process of a training has ended, or cannot be met
├── ObjectError           an object at a URI cannot be read or written
│   └── NoObject          there is nothing at this URI
└── CatalogueError        a catalogue cannot be opened, read or written
    ├── WrongEncoder      the catalogue was built by another encoder
    ├── CatalogueBusy     another process is writing to it
    └── StorageFull       the disk is full; what was acknowledged is kept
"""

from __future__ import annotations

from collections.abc import Iterable


class LookalikeError(Exception):
    """What went wrong, in one line; `hint` says what to do about it ("" where there is nothing to add)."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class BadPicture(LookalikeError):
    """A picture that cannot be used. In a batch it is reported and skipped, never the end of a run."""


class BadInput(LookalikeError):
    """A wrong option, box, filter, table or name."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> BadInput:
    """What to raise where nothing has this name; the hint tells the nearest one, and all."""
    from difflib import get_close_matches

    names = list(known)
    near = get_close_matches(name, names, n=1)
    meant = f"did you mean {near[0]}? " if near else ""
    return BadInput(f"no {kind} is called {name!r}", f"{meant}known: {', '.join(names)}")


class MissingExtra(LookalikeError):
    """An optional package is not installed."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs a package that is not installed", f"pip install 'lookalike[{extra}]'")


class WeightsError(LookalikeError):
    """Model weights are absent, damaged or not what their record says."""


class ProcessLost(LookalikeError):
    """Another process of a training has ended or cannot be met; what was saved is kept."""


class ObjectError(LookalikeError):
    """An object at a URI cannot be read or written: no connection, no permission, no such bucket."""


class NoObject(ObjectError):
    """There is nothing at this URI."""


class CatalogueError(LookalikeError):
    """A catalogue cannot be opened, read or written."""


class WrongEncoder(CatalogueError):
    """The catalogue was built by another encoder than the one at hand."""


class CatalogueBusy(CatalogueError):
    """Another process is writing to the catalogue."""


class StorageFull(CatalogueError):
    """The disk is full; what was acknowledged before is kept."""
