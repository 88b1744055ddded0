"""Which parts a catalogue is opened with. The only module that knows their concrete names."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lookalike import objects, weights
from lookalike.catalogue import Catalogue, captioned
from lookalike.errors import BadInput, CatalogueError, MissingExtra, WeightsError, unknown_name
from lookalike.indexing import Parts
from lookalike.roles import Captioner, Encoder, RegionFinder, Reranker
from lookalike.store import Build, LocalStore, is_address
from lookalike.values import REGIMES, TOLD_GALLERY

if TYPE_CHECKING:
    from lookalike.store.milvus import MilvusStore

ENCODERS = {
    "efficientnet-lite2": "lookalike.encoders:EfficientNet",
    "efficientnet-lite2-mean": "lookalike.encoders.efficientnet:mean_pooled",
    "efficientnet-lite2-gem": "lookalike.encoders.efficientnet:gem_pooled",
    "efficientnet-lite2-superglobal": "lookalike.encoders.efficientnet:superglobal_pooled",
    "colour-histogram": "lookalike.encoders:ColourHistogram",
    "compact": "lookalike.encoders.exported:compact",
}
THREADED = ("efficientnet-lite2", "compact")  # of these: may be told how many cores a pass takes
REGION_FINDERS = {
    "predicted": "lookalike.regions:Predicted",
    "salient": "lookalike.regions:Salient",
    "whole": "lookalike.regions:Whole",
}
RERANKERS = {
    "superglobal": "lookalike.rerank:SuperGlobal",
    "query-expansion": "lookalike.rerank:QueryExpansion",
    "dba": "lookalike.rerank:DatabaseAugmentation",
    "dba-query-expansion": "lookalike.rerank.expansion:dba_query_expansion",
    "k-reciprocal": "lookalike.rerank:KReciprocal",
    "diffusion": "lookalike.rerank:Diffusion",
    "geometric": "lookalike.rerank:Geometric",
    "pair-match": "lookalike.rerank:PairMatch",
}
WITH_ENCODER = ("pair-match",)  # re-rankers that ask the catalogue's encoder
DEFAULT_ENCODER = "efficientnet-lite2"
DEFAULT_REGIONS = "whole"  # gallery pictures
DEFAULT_QUERY_REGIONS = "salient"
DEFAULT_RERANKER = "none"


@dataclass(frozen=True, slots=True)
class Settings:
    """The exchangeable parts, each by name or as an object of one's own; None is the default.

    For a catalogue that exists, the default `encoder`, `regions` and `regime` are those it was built with.
    """

    encoder: str | Encoder | None = None
    regions: str | RegionFinder | None = None  # finds the objects in gallery pictures
    query_regions: str | RegionFinder | None = None  # finds the object in a query's picture
    rerank: str | Reranker | None = None
    regime: str | None = (
        None  # of `values.REGIMES`: where captions take part; "train" for an encoder trained with them
    )
    token: str | None = field(default=None, repr=False)  # of a Milvus server: USER:PASSWORD, or an API key


def open_catalogue(folder: Path | str, settings: Settings | None = None, create: bool = True) -> Catalogue:
    """Open a catalogue, made when absent (unless `create` is False).

    `folder` is a folder's path, or "milvus://HOST:PORT/NAME" for one in a Milvus server (extra `milvus`).
    Raises WrongEncoder when it was built by another encoder than the settings name.
    """
    settings = settings or Settings()
    encoder: Encoder | None = None
    if not store_exists(folder, settings.token):
        if not create:
            raise CatalogueError(
                f"there is no catalogue at {folder}", f"make one: lookalike index PICTURES --to {folder}"
            )
        encoder, _, facts = _new_parts(settings, {})
        make_store(folder, facts, token=settings.token)
    store = open_store(folder, token=settings.token)
    try:
        encoder = encoder or open_encoder(settings.encoder or store.meta["encoder"])
        regions = open_regions(settings.regions or store.meta["regions"], encoder)
        if regions.name != store.meta["regions"]:
            raise BadInput(
                f"the catalogue's regions were found by {store.meta['regions']!r}, not by {regions.name!r}",
                "leave the option out, or index into another catalogue",
            )
        if settings.regime not in (None, store.meta["regime"]):
            raise BadInput(
                f"the catalogue was built for the regime {store.meta['regime']!r}",
                f"change it: lookalike reindex {folder} --regime {settings.regime}",
            )
        return Catalogue(
            store,
            open_writer=lambda: open_store(folder, write=True, token=settings.token),
            encoder=encoder,
            gallery_regions=regions,
            query_regions=open_regions(settings.query_regions or DEFAULT_QUERY_REGIONS, encoder),
            reranker=open_reranker(settings.rerank or DEFAULT_RERANKER, encoder),
        )
    except BaseException:
        store.close()
        raise


def store_exists(place: Path | str, token: str | None = None) -> bool:
    """Whether a catalogue is there; BadInput where a build is, or may be: nothing searches those."""
    if is_address(place):
        return _milvus().exists(str(place), token)
    if _holds_build(place):
        raise BadInput(
            f"{place} is a build, or a place for one: rows in fragments, which nothing searches or changes",
            f"copy it first: lookalike copy {place} FOLDER",
        )
    return LocalStore.exists(Path(place))


def open_store(place: Path | str, write: bool = False, token: str | None = None) -> LocalStore | MilvusStore:
    """The store of a catalogue that is there, in a folder or in a Milvus server."""
    if is_address(place):
        return _milvus()(str(place), cache=_mirrors(), token=token, write=write)
    return LocalStore(Path(place), write=write)


def make_store(
    place: Path | str, facts: Mapping[str, str], epoch: str | None = None, token: str | None = None
) -> None:
    """Make an empty catalogue with the facts that say whose descriptors it is for, their length `dim` too.

    `epoch` is given where a folder is filled with what others are filled with, too, see `Build.epoch`.
    """
    told, dim = (
        {fact: facts[fact] for fact in ("encoder", "fingerprint", "regions", "regime")},
        int(facts["dim"]),
    )
    if is_address(place):
        _milvus()(str(place), cache=_mirrors(), token=token, dim=dim, write=True, meta=told).close()
        return
    told |= {} if epoch is None else {"epoch": epoch}
    LocalStore(Path(place), dim=dim, write=True, meta=told).close()


def files_of(place: Path | str) -> Path:
    """The folder for files beside a catalogue: its own; for one in a server a folder of the cache, made."""
    if not is_address(place):
        return Path(place)
    folder = _mirrors() / "files" / re.sub(r"[^\w.-]", "_", str(place).partition("://")[2])
    with suppress(OSError):  # then nothing is kept
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def _milvus() -> type[MilvusStore]:
    from lookalike.store.milvus import MilvusStore

    return MilvusStore


def _mirrors() -> Path:
    """Where what can be derived of catalogues in servers is kept."""
    return weights.default_folder() / "milvus"


def open_build(place: Path | str) -> Build | None:
    """The build at a URI or in a folder; None for a folder without one."""
    return Build.open(str(place)) if _holds_build(place) else None


def for_builds(place: Path | str) -> bool:
    """Whether nothing but a build can be at a place: a URI that is no address of a catalogue."""
    return objects.is_uri(place) and not is_address(place)


def _holds_build(place: Path | str) -> bool:
    if for_builds(place):
        return True
    return not is_address(place) and not LocalStore.exists(Path(place)) and Build.exists(str(place))


def parts_of_build(
    uri: str, settings: Settings, captioner: Captioner | None = None
) -> tuple[Parts, dict[str, str]]:
    """What makes the rows of a build, and the facts that say so; the defaults are those it was begun with."""
    built = Build.open(uri).manifest.facts if Build.exists(uri) else {}
    encoder, finder, facts = _new_parts(settings, built)
    fused = facts["regime"] in TOLD_GALLERY
    return Parts(encoder, finder, captioner, fused), facts | {
        "captioner": captioner.name if captioner else ""
    }


def _new_parts(settings: Settings, built: Mapping[str, str]) -> tuple[Encoder, RegionFinder, dict[str, str]]:
    """The parts of a gallery and the facts that say which they are; by default those of what is `built`."""
    encoder = open_encoder(settings.encoder or built.get("encoder", DEFAULT_ENCODER))
    regions = open_regions(settings.regions or built.get("regions", DEFAULT_REGIONS), encoder)
    facts = {
        "encoder": encoder.name,
        "fingerprint": encoder.fingerprint,
        "dim": str(encoder.dim),
        "regions": regions.name,
        "regime": regime_for(encoder, settings.regime or built.get("regime")),
    }
    return encoder, regions, facts


def regime_for(encoder: Encoder, wanted: str | None = None, present: str = "") -> str:
    """The regime of a catalogue by this encoder; BadInput where it cannot have the one that is wanted.

    Without a wish that is the `present` one as far as the encoder goes with it.
    """
    if wanted is not None and wanted not in REGIMES:
        raise unknown_name("regime", wanted, REGIMES)
    if captioned(encoder):
        return wanted or (present if present in TOLD_GALLERY else "train")
    if wanted not in (None, "image"):
        raise BadInput(
            f"{encoder.name} was not trained with captions: the regime {wanted!r} is not for it",
            "leave the regime out (captions can be searched by words all the same), or use --encoder compact",
        )
    return "image"


def open_encoder(named: str | Encoder, threads: int | None = None) -> Encoder:
    """An encoder by name; an object is taken as it is. `threads` is how many cores a pass of it takes, where
    onnxruntime runs it; None for all.

    "hub:NAME" is a hub model that was pulled, "hub:FOLDER" one in a folder. A path is that of an exported
    model, FILE.onnx, or of a trained one's folder; "x2vlm:FILE" is an X²-VLM checkpoint, "x2vlm:FILE@384" the
    same for pictures of 384 pixels.
    """
    if not isinstance(named, str):
        return named
    if named in ENCODERS:  # before a folder of that name
        made = _named("encoder", named, ENCODERS)
        shipped: Encoder = made(threads=threads) if named in THREADED else made()
        return shipped
    if named.startswith("hub:"):
        from lookalike.encoders import HubEncoder

        return HubEncoder(named.removeprefix("hub:"))
    if named.endswith(".onnx"):
        from lookalike.encoders import AdaptedEncoder, OnnxBranches

        return AdaptedEncoder(OnnxBranches(Path(named), threads), threads=threads)
    if named.startswith("x2vlm:") or (Path(named) / "model.json").is_file():
        from lookalike.encoders import AdaptedEncoder

        if not all(map(find_spec, ("torch", "safetensors"))):
            raise MissingExtra(f"the encoder {named}", "train")
        learnt = import_module("lookalike.learn.branches")  # by name: it stands above this module
        return AdaptedEncoder(learnt.opened(named))
    if Path(named).is_absolute():  # as a catalogue keeps it
        raise WeightsError(f"there is no model in {named}", "was it moved? put a link in its place")
    hubs = [f"hub:{name}" for name in weights.hub_names("encoder")]
    raise unknown_name("encoder", named, [*ENCODERS, *hubs])


def takes_gpu(encoder: str) -> bool:
    """Whether an encoder of this name runs on a GPU where there is one: onnxruntime is used on CPUs alone."""
    return encoder not in ENCODERS and not encoder.endswith(".onnx")


def open_regions(named: str | RegionFinder, encoder: Encoder) -> RegionFinder:
    if not isinstance(named, str):
        return named
    made: RegionFinder = _named("region finder", named, REGION_FINDERS)(encoder)
    return made


def open_reranker(named: str | Reranker, encoder: Encoder) -> Reranker | None:
    """By name, "none" for none; "superglobal+geometric" runs one after the other."""
    if not isinstance(named, str):
        return named
    if named == "none":
        return None
    made: list[Reranker] = [
        _named("re-ranker", part, RERANKERS, ["none"])(*([encoder] if part in WITH_ENCODER else []))
        for part in named.split("+")
    ]
    if len(made) == 1:
        return made[0]
    from lookalike.rerank import Chain

    return Chain(tuple(made))


@dataclass(frozen=True, slots=True)
class Asking:
    """How a captioner asks its models; see `captions.captioner.ModelCaptioner` and `captions.pacing.Pace`."""

    vlm: str | None = None  # sees pictures
    llm: str | None = None  # asks the questions of a dialogue; None: the vlm does
    strategy: str = "attributes"
    prompt: str | None = None  # version; None is the newest
    vocabulary: str = "fashion"
    samples: int = 1
    check: bool = True
    width: int = 8  # calls at once
    requests_per_s: float | None = None
    tokens_per_min: float | None = None
    attempts: int = 6  # of a call
    deadline_s: float | None = None  # of one caption
    stream: bool = False  # to measure the time to the first token
    cache: Path | None = None  # None: in memory
    again: bool = False  # ask anew what came to nothing before
    key: str | None = field(default=None, repr=False)


def open_captioner(named: str | Captioner, asking: Asking | None = None) -> Captioner:
    """A captioner by name; an object is taken as it is. Nothing is asked before the first caption.

    "palette"; "openai:URL" of a server; "transformers:MODEL", a pulled one or a folder; or a file of captions
    (.jsonl, .parquet, .csv).
    """
    if not isinstance(named, str):
        return named
    asking = asking or Asking()
    if named == "palette":
        from lookalike.captions import Palette

        palette: Captioner = Palette()
        return palette
    kind, _, place = named.partition(":")
    if kind not in ("openai", "transformers"):
        from lookalike.captions import FileCaptions

        if Path(named).suffix not in (".jsonl", ".parquet", ".csv"):
            raise unknown_name("captioner", named, ["palette", "openai:URL", "transformers:MODEL", "a file"])
        return FileCaptions(Path(named))
    from lookalike.captions import Cache, Desk, Engine, ModelCaptioner, Pace, Server, Transformers, Vocabulary

    vlm = place if kind == "transformers" and place else asking.vlm
    if not vlm:
        raise BadInput(f"{named} needs the name of a model that sees pictures", "add --vlm NAME")
    engine: Engine
    if kind == "openai":
        engine = Server(place, vlm, asking.llm, asking.key, stream=asking.stream)
    else:
        engine = Transformers(vlm, asking.llm)
    pace = Pace(asking.width, asking.requests_per_s, asking.tokens_per_min, asking.attempts)
    return ModelCaptioner(
        Desk(engine, Cache(asking.cache), pace, failures_again=asking.again),
        asking.strategy,
        asking.prompt,
        Vocabulary.open(asking.vocabulary),
        asking.samples,
        asking.check,
        asking.deadline_s,
        models=f"{vlm}+{asking.llm}" if asking.llm else vlm,
    )


def _named(kind: str, name: str, table: dict[str, str], others: Sequence[str] = ()) -> Any:
    if name not in table:
        raise unknown_name(kind, name, [*table, *others])
    module, _, attribute = table[name].partition(":")
    return getattr(import_module(module), attribute)
