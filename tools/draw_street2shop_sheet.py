"""Draws docs/images/street2shop.jpg: customers' pictures with boxes, and the same garments in the shop."""

import json
import tempfile
import textwrap
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from lookalike.datasets.photos import scenery
from lookalike.datasets.street2shop import make
from lookalike.weights import default_folder

OUT = Path(__file__).parents[1] / "docs" / "images" / "street2shop.jpg"
KINDS = ("long sleeve dress", "short sleeve top", "trousers", "long sleeve outwear", "skirt")  # a row each
HEIGHT, GAP, WORDS = 264, 10, 66  # pixels of a picture, between pictures, of the caption below
USERS, SHOPS = 2, 3  # pictures on a row
Shown = tuple[Path, dict[str, Any]]  # a picture and its annotation
WANTED, OTHER = "#ffb020", "#9aa3b2"


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        photographs = [path for path in scenery(default_folder()) if path.stem != "astronaut"]  # a portrait
        make(folder, 330, seed=1, backgrounds=photographs)
        rows = [row_of(found) for found in identities(folder / "validation")]
    sheet = Image.new("RGB", (rows[0].width, sum(row.height for row in rows)), "white")
    for number, row in enumerate(rows):
        sheet.paste(row, (0, number * row.height))
    OUT.parent.mkdir(exist_ok=True)
    sheet.save(OUT, quality=84, optimize=True)


def identities(split: Path) -> list[dict[str, list[Shown]]]:
    """For each kind the first style 1 that has pictures enough: its users' and its shop pictures."""
    found: dict[tuple[str, int], dict[str, list[Shown]]] = {}
    for path in sorted(split.glob("annos/*.json")):
        annotation = json.loads(path.read_bytes())
        for item in (value for name, value in annotation.items() if name.startswith("item")):
            if item["style"] == 1:
                sides = found.setdefault(
                    (item["category_name"], annotation["pair_id"]), {"user": [], "shop": []}
                )
                sides[annotation["source"]].append((split / "image" / f"{path.stem}.jpg", annotation))
    full = {key: sides for key, sides in found.items() if len(sides["user"]) >= USERS}
    full = {key: sides for key, sides in full.items() if len(sides["shop"]) >= SHOPS}
    return [next(sides for (kind, _), sides in full.items() if kind == wanted) for wanted in KINDS]


def row_of(found: dict[str, list[Shown]]) -> Image.Image:
    """Pictures of one identity: customers' on the left, with boxes, the shop's on the right."""
    width = HEIGHT * 3 // 4
    row = Image.new("RGB", ((USERS + SHOPS) * (width + GAP) + 3 * GAP, HEIGHT + WORDS + GAP), "white")
    for place, picture in enumerate([*found["user"][:USERS], *found["shop"][:SHOPS]]):
        left = GAP + place * (width + GAP) + (2 * GAP if place >= USERS else 0)
        draw_picture(row, *picture, (left, GAP), (width, HEIGHT))
    return row


def draw_picture(
    row: Image.Image, path: Path, annotation: dict[str, Any], place: tuple[int, int], size: tuple[int, int]
) -> None:
    with Image.open(path) as opened:
        picture = opened.resize(size, Image.Resampling.LANCZOS)
        scale = size[0] / opened.width
    draw = ImageDraw.Draw(picture)
    items = [value for name, value in annotation.items() if name.startswith("item")]
    for item in sorted(items, key=lambda item: item["style"] == 1):
        if annotation["source"] == "user":
            box = [round(scale * corner) for corner in item["bounding_box"]]
            draw.rectangle(box, outline=WANTED if item["style"] == 1 else OTHER, width=2)
    row.paste(picture, place)
    words = next(item["captions"]["medium"] for item in items if item["style"] == 1)
    lines = textwrap.wrap(words, 36)[:4]
    font = ImageFont.load_default(11)
    ImageDraw.Draw(row).multiline_text(
        (place[0], place[1] + size[1] + 4), "\n".join(lines), "#3b4252", font, spacing=2
    )


if __name__ == "__main__":
    main()
