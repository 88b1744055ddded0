"""Other ways to train a descriptor, on the same pictures, boxes and steps."""

from __future__ import annotations

from lookalike.study.arms import FREE, NO_CAPTIONS, TOLD, VERIFIED, Arm, View
from lookalike.study.captions import ORACLE
from lookalike.study.conducting import Found, Plan, Section
from lookalike.study.drawing import Chart, Dot, dots
from lookalike.study.tables import Row, Table, figures_of

ABOUT = (
    "How do published ways to train a descriptor do on the same pictures, with the same boxes, the same "
    "views, batches and steps? All of them stand on one frozen trunk, EfficientNet-Lite2's last block, as "
    "`compact` does, and train what comes after it. Their rate is `compact`'s; tuned, it is for each seed "
    "the best of three on the tuning products. What else is their own is the paper's, or was tried with one "
    "seed on held-out identities. Queries and gallery are bare pictures but for the last rows."
)
_RIVALS = {
    "frozen": "the frozen encoder, nothing trained",
    "superglobal-frozen": "SuperGlobal's pooling, nothing trained",
    "superglobal": "SuperGlobal's pooling, a layer trained by ArcFace",
    "delg": "DELG, global",
    "reid": "the strong baseline of re-identification",
    "clip-reid": "CLIP-ReID's losses on this trunk (with captions)",
}
_TUNED = ("superglobal", "delg", "reid", "clip-reid")
RATES = (3e-4, 3e-3)  # besides the usual 1e-3


def arms(plan: Plan) -> list[Arm]:
    usual = plan.recipe()
    told = View(gallery=ORACLE, queries=ORACLE)
    return [
        *(Arm(name, usual, rival=name) for name in _RIVALS),
        *(Arm(_at(name, rate), plan.recipe(f"lr={rate:g}"), rival=name) for name in _TUNED for rate in RATES),
        Arm(FREE, plan.recipe(*NO_CAPTIONS)),
        Arm(TOLD, usual),
        Arm(f"all-{ORACLE}", usual, captions=ORACLE, views=(told,)),
    ]


def _at(name: str, rate: float) -> str:
    return f"{name}-lr-{rate:g}"


def sections(found: Found) -> list[Section]:
    usual = "compact, trained with captions"
    told = View(gallery=ORACLE, queries=ORACLE)
    results = found.results.chosen(
        {f"{name} tuned": (name, *(_at(name, rate) for rate in RATES)) for name in _TUNED}
    )
    rows: list[Row] = []
    for name, label in _RIVALS.items():
        rows.append(Row(label, name, against=usual))
        if name in _TUNED:
            rows.append(Row(f"{label}, tuned", f"{name} tuned", against=usual))
        if name == "delg":
            rows.append(Row("DELG, global and geometric verification", "delg", VERIFIED, usual))
    rows += [
        Row("compact, trained without captions", FREE, against=usual),
        Row(usual, TOLD),
        Row(
            "… with a stand-in model's captions (a tenth wrong) everywhere", f"all-{ORACLE}", told.name, usual
        ),
    ]
    table = Table("rivals", "Trained on the same pictures", rows)
    lines = figures_of(table, results)
    drawn = Chart(
        "Trained on the same pictures",
        "mAP of each way to train, with 95 % intervals.",
        "mAP", line=None,
    )  # fmt: skip
    shown = [
        Dot(line.row.label, line.mean.mean, line.mean.low, line.mean.high, line.row.label == usual)
        for line in lines
    ]
    verified = [run.facts for run in found.results.of("delg")]
    text = ""
    if verified:
        right, wrong = (
            sum(facts[name] for facts in verified) / len(verified)
            for name in ("verified right pairs", "verified wrong pairs")
        )
        text = (
            f"DELG's local features verify (8 inliers or more) {right:.1%} of true pairs and {wrong:.1%} "
            "of the wrong ones in its short lists. Its map has 9 x 9 cells here, far coarser than the "
            "paper's."
        )
    return [Section("Rivals", text, [table], {"rivals.svg": dots(drawn, shown)}, results=results)]
