from pathlib import Path

from PIL import Image

from lookalike.testing import drawing


def save(path: Path, seed: int, size: tuple[int, int] = (96, 128)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(drawing(seed, *size)).save(path)
    return path
