"""The pictures in a folder, on disk or on object storage, with the items that the folder convention makes."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from operator import attrgetter
from pathlib import Path

from lookalike import objects
from lookalike.datasets.listed import Listed, Unlisted, name_as_text, named_like_picture
from lookalike.errors import BadInput
from lookalike.images import shown
from lookalike.values import Item


def in_folder(root: str) -> Iterator[Listed | Unlisted]:
    tree = _Tree(root)
    try:
        loose, folders = tree.enter(root)
    except OSError as error:
        yield _not_entered(root, error)
        return
    items = _items_of([file.name for file in loose], [folder.name for folder in folders])
    for file, item in zip(loose, items, strict=True):
        yield Listed(item, file.path)
    for folder in folders:
        item = Item(name_as_text(folder.name))
        pending = [folder]
        while pending:
            inner = pending.pop()
            try:
                pictures, deeper = tree.enter(inner.path)
            except OSError as error:
                yield _not_entered(inner.path, error)
                continue
            for picture in pictures:
                yield Listed(item, picture.path)
            pending += reversed(deeper)


def at_uri(root: str) -> Iterator[Listed]:
    """Loose objects first, then the others in the order of their keys, told as they come.

    BadInput, at the first, where there is nothing below `root`.
    """
    files, folders = ([uri for uri in uris if _shown_name(_name(uri))] for uris in objects.children(root))
    if not files and not folders:
        raise BadInput(f"{root}: nothing there", "give a folder of pictures, s3://bucket/folder")
    loose = [uri for uri in files if named_like_picture(uri)]
    items = _items_of([_name(uri) for uri in loose], [_name(uri) for uri in folders])
    for uri, item in zip(loose, items, strict=True):
        yield Listed(item, uri)
    if not folders:
        return
    for uri in objects.listed(root):
        item_name, *parts = uri.removeprefix(f"{root}/").split("/")
        if parts and named_like_picture(uri) and all(map(_shown_name, (item_name, *parts))):
            yield Listed(Item(item_name), uri)


def _items_of(loose: Sequence[str], folders: Sequence[str]) -> list[Item]:
    """The items of loose pictures, by the pictures' names and those of the folders beside them.

    a.jpg is item "a", unless a.png, a folder a or the like lies beside it: then it is "a.jpg".
    """
    stems = [Path(name).stem for name in loose]
    claims = Counter([*loose, *folders, *stems])
    return [
        Item(name_as_text(stem if claims[stem] == 1 else name))
        for name, stem in zip(loose, stems, strict=True)
    ]


def _name(uri: str) -> str:
    return uri[uri.rfind("/") + 1 :]


def _shown_name(name: str) -> bool:
    return not name.startswith(".")


def _not_entered(folder: str, error: OSError) -> Unlisted:
    return Unlisted(folder, f"{shown(folder)}: not entered: {error.strerror}")


class _Tree:
    """The folders below a root, each entered once however many links lead to it."""

    def __init__(self, root: str) -> None:
        self.root = Path(root).resolve()
        self.entered: set[tuple[int, int]] = set()

    def enter(self, folder: str) -> tuple[list[os.DirEntry[str]], list[os.DirEntry[str]]]:
        """What is named like a picture, and the folders, both in the order of their names.

        OSError where that is not allowed or the folder has its turn under another name. A dead link or a
        pipe that is named like a picture is taken for one: reading it says what it is.
        """
        path = Path(folder)
        status = path.stat()
        place = (status.st_dev, status.st_ino)
        if place in self.entered or (path.is_symlink() and self._is_below(path.resolve())):
            raise OSError(0, "a link to a folder that is listed elsewhere")
        self.entered.add(place)
        pictures, folders = [], []
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if _is_folder(entry):
                    folders.append(entry)
                elif named_like_picture(entry.name):
                    pictures.append(entry)
        by_name = attrgetter("name")
        return sorted(pictures, key=by_name), sorted(folders, key=by_name)

    def _is_below(self, path: Path) -> bool:
        """Whether a folder has its turn by its own name, being in the tree and not hidden."""
        if self.root not in path.parents:
            return False
        return not any(part.startswith(".") for part in path.relative_to(self.root).parts)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle
        return False
