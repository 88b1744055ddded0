from pathlib import Path

from PIL import Image

from lookalike.testing import drawing


def save(path: Path, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(drawing(seed)).save(path)
    return path
