"""How long each way to search takes, and what it brings for it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from lookalike.datasets import Labelled, Side
from lookalike.evaluation.intervals import paired
from lookalike.evaluation.runs import finite, write_whole
from lookalike.settings import open_encoder
from lookalike.study import clocks
from lookalike.study.captions import ORACLE
from lookalike.study.conducting import Found, Section
from lookalike.study.drawing import Chart, Series, chart
from lookalike.study.kept import points
from lookalike.study.results import Results
from lookalike.study.tables import Line, Table, figures_of, grid
from lookalike.study.ways import (
    GALLERY_MIXED,
    IMAGE,
    IMAGINED,
    MIXED,
    PALETTE_MIXED,
    PULLED,
    TRAIN,
    Way,
    precisions,
)

PICTURES, QUICK_PICTURES = 100, 16  # whose times and calls are measured


def waiting(found: Found, table: Table) -> Section:
    """How long each way takes and what it brings for it."""
    times = _times(found)
    machine, asked = times["measured"], times["asked"]
    lines = {line.row.label: line for line in figures_of(table, found.results)}
    record = [_clocked(found.results, TRAIN, "no caption at the query", machine)]
    record.append(_clocked(found.results, PALETTE_MIXED, "palette, measured", machine, machine["palette"]))
    for strategy, each in asked.items():
        named = f"{strategy}, simulated"
        record.append(_clocked(found.results, MIXED, named, machine, 1000 * each["seconds"], each))
    rows = [
        {
            "query captions": each["named"],
            "calls": "" if each["calls"] is None else f"{each['calls']:.1f}",
            "first hits, ms": f"{each['first_ms']:,.0f}",
            "refined hits, ms": f"{each['refined_ms']:,.0f}",
            "points against train": points(each["gain"]),
            "points for each 100 ms": "" if each["value"] is None else f"{each['value']:+z.2f}",
        }
        for each in record
    ]
    same = ", ".join(f"{strategy} {each['same']:.0%}" for strategy, each in asked.items())
    counted = asked["attributes"]["pictures"]
    server = clocks.SERVER
    text = (
        f"Medians of {machine['pictures']} queries on this machine, one at a time: {machine['bare']:.0f} ms "
        f"to read, encode and search, {machine['palette']:.1f} ms for palette, {machine['again']:.0f} ms to "
        "encode and search again. First hits do not wait for a caption; what needs none adds no time. No "
        f"model is run: calls are counted in the real captioner, which asks a stand-in about {counted} "
        "pictures, and their time is simulated by a stated server, where a form takes "
        f"{server.form} s, another answer {server.answer} s, a question of the LLM {server.question} s and "
        f"its summary {server.summary} s. "
        "The quality of targeted and dialogue is taken from attributes; captions that are the same as its, "
        f"word for word: {same}.\n\n"
    )
    bare_ms = machine["bare"]
    shown = [(way, bare_ms) for way in (IMAGE, GALLERY_MIXED, PULLED, IMAGINED)]
    shown.append((PALETTE_MIXED, record[1]["refined_ms"]))
    series = [Series(way.label, _points(lines[way.label], ms)) for way, ms in shown]
    simulated = _points(lines[MIXED.label], *(each["refined_ms"] for each in record[2:]))
    label = "a model, a tenth wrong: attributes, targeted, dialogue (simulated)"
    series.append(Series(label, simulated, dashed=True))
    about = Chart(
        "What captions at the query bring for their time",
        "Points of mAP against train, which has no captions but in training, with 95 % intervals, by the "
        "seconds until hits are final. A model's seconds are simulated.",
        "seconds until hits are final",
        "points of mAP against train",
        logarithmic=True,
        line=0.0,
    )
    return Section(
        "Time", text + grid(rows), drawings={"time.svg": chart(about, series)}, record=[times, *record]
    )


def _times(found: Found) -> dict[str, Any]:
    """What `clocks` measured, once for a folder and its data."""
    file = found.folder / "times.json"
    of = {name: found.results.about[name] for name in ("data", "part")}
    if file.exists() and (kept := json.loads(file.read_bytes()))["of"] == of:
        return dict(kept)
    regions = [each for each in found.dataset.read(found.split) if isinstance(each, Labelled)]
    users = [each for each in regions if each.side is not Side.GALLERY and each.identity is not None]
    by_chance = np.random.default_rng(0).permutation(len(users))
    number = QUICK_PICTURES if found.plan.quick else PICTURES
    sample = [users[place] for place in by_chance[:number]]
    run = found.results.of(TRAIN.arm)[0]
    encoder = open_encoder(str(found.place.folder / "runs" / f"{run.arm}-{run.seed}"))
    gallery = sum(each.side is not Side.QUERY for each in regions)
    machine = clocks.measured(encoder, sample, gallery, found.stage("measuring times"))
    asked = clocks.asked(ORACLE, found.dataset, found.split, sample, found.stage("counting calls"))
    told = {
        "of": of,
        "measured": asdict(machine),
        "asked": {strategy: asdict(each) for strategy, each in asked.items()},
        "server, simulated": asdict(clocks.SERVER),
    }
    write_whole(file, json.dumps(told, indent=1) + "\n")
    return told


def _clocked(
    results: Results, way: Way, named: str, machine: Mapping[str, float],
    caption_ms: float | None = None, asked: Mapping[str, float] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """A server is asked while the picture is encoded; palette, on this machine, after the first hits."""
    first = refined = machine["bare"]
    if caption_ms is not None:
        waited = first + caption_ms if asked is None else max(first, caption_ms)
        refined = waited + machine["again"]
    found = precisions(results, TRAIN, way) if caption_ms is not None else []
    gain = paired(found[0], found[1], results.groups) if found else None
    return {
        "named": named,
        "calls": None if asked is None else asked["calls"],
        "first_ms": first,
        "refined_ms": refined,
        "gain": None if gain is None else finite(asdict(gain)),
        "value": None if gain is None else 100 * gain.mean / ((refined - first) / 100),
    }


def _points(line: Line, *ms: float) -> list[tuple[float, float, float, float]]:
    """What a row has more than the one it is compared with, at each of these times; none where not run."""
    if line.comparison is None:
        return []
    more = line.comparison.difference
    return [(float(f"{each / 1000:.2g}"), 100 * more.mean, 100 * more.low, 100 * more.high) for each in ms]
