"""Find the same product in a catalogue from a photo.

import lookalike

with lookalike.open("shop") as catalogue:
    catalogue.add("my-pictures")
    for hit in catalogue.search("phone.jpg"):
        print(hit.item, hit.score)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lookalike.errors import LookalikeError

if TYPE_CHECKING:
    from pathlib import Path

    from lookalike.catalogue import Catalogue
    from lookalike.settings import Settings

__version__ = "0.1.0"
__all__ = ["LookalikeError", "__version__", "open"]


def open(folder: Path | str, settings: Settings | None = None, create: bool = True) -> Catalogue:
    """Open the catalogue in `folder`, made when absent (unless `create` is False)."""
    from lookalike.settings import open_catalogue  # here, so that `import lookalike` loads next to nothing

    return open_catalogue(folder, settings, create)
