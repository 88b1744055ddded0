"""Draws docs/images/search.jpg: snapshots of drawn garments, and what a catalogue of 60 garments answers."""

import tempfile
from pathlib import Path

from PIL import Image

import lookalike
from lookalike import images
from lookalike.datasets import Listed, listing
from lookalike.datasets.garments import generated_garments
from lookalike.datasets.photos import scenery
from lookalike.datasets.street import street_view
from lookalike.explain import draw_answers
from lookalike.weights import default_folder

OUT = Path(__file__).parents[1] / "docs" / "images" / "search.jpg"
ASKED = (4, 33, 38)  # whose sceneries are not a portrait


def main() -> None:
    scenes = [images.load(path).pixels for path in scenery(default_folder())]
    with tempfile.TemporaryDirectory() as folder, lookalike.open(Path(folder) / "shop") as catalogue:
        table = generated_garments(Path(folder) / "garments", 60, seed=1)
        catalogue.add(table)
        listed = [entry for entry in listing(table) if isinstance(entry, Listed)]
        answers = []
        for number in ASKED:
            entry = listed[number]
            snapshot = street_view(images.load(entry.source).pixels, scenes[number % len(scenes)], number)
            path = Path(folder) / f"{number}.jpg"
            Image.fromarray(snapshot.pixels).save(path)
            answers.append((catalogue.search(path, top=5), entry.item.id))
        OUT.parent.mkdir(exist_ok=True)
        draw_answers(answers, OUT)


if __name__ == "__main__":
    main()
