"""What speaks for the claims of a caption: pixels, repeated answers, other views, the encoder.

Each check returns the claims with its `support` added; `decided` says in the end which are believed. A check
that has no say about a claim leaves it as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from lookalike.captions import palette
from lookalike.roles import Encoder
from lookalike.values import Claim, Region

_REACH = 0.1  # of agreement, from the guard to a support of 0 or 1


def pixels(claims: Sequence[Claim], region: Region) -> tuple[Claim, ...]:
    """The claims, with support["pixels"] where the region's pixels can tell: colours and patterns."""
    if not any(claim.attribute for claim in claims):
        return tuple(claims)
    seen = palette.looks(region)
    found = [(claim, palette.support(seen, claim.attribute, claim.value)) for claim in claims]
    return tuple(
        claim if support is None else _supported(claim, "pixels", support) for claim, support in found
    )


def samples(asked: Sequence[Sequence[Claim]]) -> tuple[Claim, ...]:
    """Answers to one ask, at least one -> the first's claims; support["samples"] is the share that says it.

    Where others agree on another value more often than on anything that the first says of an attribute, that
    value is claimed too, in front of the first's; saying nothing counts as a value. For instance navy, black,
    black claims black with 2/3 and navy with 1/3.
    """
    said = [{_about(claim): claim for claim in answer} for answer in asked]
    first = said[0]
    share = {key: sum(key in answer for answer in said) / len(said) for answer in said for key in answer}
    kept = dict(first)
    for answer in said[1:]:
        for key, claim in answer.items():
            if key not in kept and claim.attribute and share[key] > _share_of_first(said, claim.attribute):
                kept[key] = claim
    places = {claim.attribute: place for place, claim in reversed(list(enumerate(kept.values())))}
    order = sorted(
        kept, key=lambda key: (places[key[0]], -share[key] if key[0] else 0.0)
    )  # an attribute's values stand together, the most frequent first
    return tuple(_supported(kept[key], "samples", share[key]) for key in order)


def views(captions: Sequence[Sequence[Claim]]) -> tuple[Claim, ...]:
    """Claims of each view of one item -> the item's: of each attribute what most views say that say anything.

    Views count by their claims' confidence, and so support["views"] is the share of what was said of the
    attribute; what a single view alone speaks of gets none. Of an attribute that a view gives several values
    there may be as many. Each claim is the most confident view's. Claims without an attribute are kept, once.
    """
    item: list[Claim] = []
    for attribute in dict.fromkeys(claim.attribute for view in captions for claim in view):
        said = [_best(claim for claim in view if claim.attribute == attribute) for view in captions]
        said = [view for view in said if view]
        best = _best(claim for view in said for claim in view.values())
        if not attribute:
            item += best.values()
            continue
        weight = {key: sum(view[key].confidence for view in said if key in view) for key in best}
        heard = sum(max(claim.confidence for claim in view.values()) for view in said)
        order = sorted(best, key=lambda key: -weight[key])
        for key in order[: max(map(len, said))]:
            share = min(1.0, weight[key] / heard) if heard else 0.5
            item.append(_supported(best[key], "views", share) if len(said) > 1 else best[key])
    return tuple(item)


def agreement(claims: Sequence[Claim], region: Region, encoder: Encoder) -> tuple[Claim, ...]:
    """The claims with support["agreement"]: the encoder's of text and region, 0.5 where it equals its guard.

    As they are where the encoder has no agreement or no guard.
    """
    agree, guard = getattr(encoder, "agreement", None), getattr(encoder, "guard", None)
    if agree is None or guard is None or not claims:
        return tuple(claims)
    found = agree([region] * len(claims), [claim.text for claim in claims])
    return tuple(
        _supported(claim, "agreement", 0.5 + (float(each) - guard) / (2 * _REACH))
        for claim, each in zip(claims, found, strict=True)
    )


def decided(claims: Iterable[Claim], least: float = 0.5) -> tuple[Claim, ...]:
    """The claims, believed where their confidence is `least` or more."""
    return tuple(replace(claim, believed=claim.confidence >= least) for claim in claims)


def _about(claim: Claim) -> tuple[str, str]:
    return claim.attribute, claim.value if claim.attribute else claim.text


def _supported(claim: Claim, check: str, support: float) -> Claim:
    return replace(claim, support={**claim.support, check: min(1.0, max(0.0, support))})


def _share_of_first(said: Sequence[dict[tuple[str, str], Claim]], attribute: str) -> float:
    """How many say of an attribute what the first answer says, at most; nothing is what the silent say."""
    own = [key for key in said[0] if key[0] == attribute]
    if own:
        return max(sum(key in answer for answer in said) for key in own) / len(said)
    return sum(all(key[0] != attribute for key in answer) for answer in said) / len(said)


def _best(claims: Iterable[Claim]) -> dict[tuple[str, str], Claim]:
    """Of claims that say the same the most confident one, the first where there are several."""
    found: dict[tuple[str, str], Claim] = {}
    for claim in claims:
        key = _about(claim)
        if key not in found or claim.confidence > found[key].confidence:
            found[key] = claim
    return found
