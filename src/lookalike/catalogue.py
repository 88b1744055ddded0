"""A catalogue: add pictures, search them, remove them, look after them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np

from lookalike import calibration, doubting, indexing, looking, ranking
from lookalike.datasets import Listed, count, listing, origin_of
from lookalike.errors import BadInput, WrongEncoder
from lookalike.indexing import Batch, Parts, Skipped
from lookalike.looking import Candidates, Clock, PictureLike
from lookalike.ranking import SHORTLIST
from lookalike.roles import Captioner, Encoder, RegionFinder, Reranker, Store, View
from lookalike.values import (
    TOLD_GALLERY,
    TOLD_QUERIES,
    Box,
    Caption,
    Floats,
    Hits,
    Item,
    Keys,
    Progress,
    Query,
    Shortlist,
)

RANKED_AT_ONCE = 64  # queries that `rank` holds the whole gallery's scores of


@dataclass(frozen=True, slots=True)
class Report:
    """What an indexing run did, and what the catalogue holds after it."""

    listed: int  # pictures and table rows that the sources named
    items: int
    pictures: int
    regions: int
    encoded: int  # pictures that were new or changed
    vanished: tuple[tuple[str, str], ...]  # (item, source) no longer listed by a SOURCE of this run
    pruned: int
    skipped: tuple[Skipped, ...]
    captions: int
    uncaptioned: tuple[Skipped, ...]  # pictures that a captioner failed on; the next run asks again
    doubt: float | None  # share of the captioner's captions that seems to be wrong, where that was asked
    seconds: float  # until everything was searchable; calibration comes after
    encoder_seconds: float  # summed over the worker threads


class Catalogue:
    """A gallery on disk with the parts that read it. Made by `lookalike.open`.

    Searching needs no lock and sees every finished batch of a writer in another process. `add`, `remove`
    and `reindex` take the writer's lock for as long as they run.
    """

    def __init__(
        self,
        store: Store,
        open_writer: Callable[[], AbstractContextManager[Store]],
        encoder: Encoder,
        gallery_regions: RegionFinder,
        query_regions: RegionFinder,
        reranker: Reranker | None,
    ) -> None:
        self.store = store
        self.encoder = encoder
        self.reranker = reranker
        self.open_writer = open_writer
        self._gallery_regions = gallery_regions
        self._query_regions = query_regions
        self.check_encoder()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.store.close()

    def add(
        self,
        sources: Path | str | Iterable[Path | str],
        prune: bool = False,
        on_progress: Progress | None = None,
        calibrate: bool = True,
        captioner: Captioner | None = None,
    ) -> Report:
        """Index folders, tables or single pictures; what is stored and unchanged is not encoded again.

        With a `captioner` regions get its captions, those that are stored too: they can be searched by words
        and filters, and in the regimes "train+gallery…" take part in descriptors.

        Durable batch by batch: after a kill, call it again. Pictures that an earlier run found in the same
        SOURCE and this one did not are reported, and removed with `prune`. `calibrate` sets afterwards what
        counts as a confident match.
        """
        started = time.perf_counter()
        paths = [sources] if isinstance(sources, Path | str) else list(sources)
        counted = [count(path) for path in paths]
        total = None if None in counted else sum(filter(None, counted))
        done = encoded = pruned = 0
        encoder_seconds = 0.0
        skipped: list[Skipped] = []
        uncaptioned: list[Skipped] = []
        vanished: list[tuple[str, str]] = []

        def on_written(batch: Batch) -> None:
            nonlocal done, encoded, encoder_seconds
            done += batch.listed
            encoded += batch.encoded
            encoder_seconds += batch.encoder_seconds
            skipped.extend(batch.skipped)
            uncaptioned.extend(batch.uncaptioned)
            if on_progress:
                on_progress(done, total)

        with self.writing() as store:
            parts = self._parts(captioner)
            parts = doubting.weighing(parts, paths, counted, store)
            for path in paths:
                origin, run = origin_of(path), store.start_run()
                indexing.index(listing(path), origin, parts, store, run, on_written)
                vanished += store.vanished(origin, run)
                if prune:
                    pruned += store.prune(origin, run)
            store.build_index()
            seconds = time.perf_counter() - started
            if calibrate:
                self.calibrate(store)
            counts = store.count()
        return Report(
            listed=done,
            items=counts.items,
            pictures=counts.pictures,
            regions=counts.regions,
            encoded=encoded,
            vanished=tuple(vanished),
            pruned=pruned,
            skipped=tuple(skipped),
            captions=counts.captions,
            uncaptioned=tuple(uncaptioned),
            doubt=parts.doubts.get(captioner.name) if captioner else None,
            seconds=seconds,
            encoder_seconds=encoder_seconds,
        )

    @contextmanager
    def writing(self) -> Iterator[Store]:
        """The store, which nobody else writes to before the block ends: for `put` and what goes with it.

        CatalogueBusy where another one is writing; WrongEncoder where the catalogue has got another encoder
        since it was opened.
        """
        with self.open_writer() as store:
            self.check_encoder()
            yield store

    def put(
        self,
        store: Store,
        items: Sequence[Item],
        pictures: Sequence[Listed],
        origin: str,
        facts: Mapping[str, str] | None = None,
    ) -> int:
        """Make items what they are told to be, and their pictures those listed; how many were encoded.

        For items at hand, a few at a time, where `add` is for sources. Title and attributes are these, empty
        ones too; an item without pictures here keeps its own. At once and on disk at return, with the
        `facts` for the store's `meta`. BadPicture or BadInput where something cannot be used, and nothing has
        changed. The `store` is that of `writing`; `origin` says who listed the pictures.
        """
        return indexing.put(items, pictures, origin, self._parts(None), store, facts).encoded

    def remove(self, items: Iterable[str]) -> int:
        """Remove items with all their pictures; how many pictures that was. BadInput for an unknown id."""
        with self.open_writer() as store:
            return store.remove(list(items))

    def search(
        self,
        picture: PictureLike | Sequence[PictureLike] | None = None,
        box: Box | None = None,
        text: str | None = None,
        where: str | None = None,
        top: int = 10,
        caption: Caption | str = "",
        like: Floats | None = None,
    ) -> Hits:
        """The `top` items closest to a picture, to words, or to both; best first, each with its best region.

        `box` is the object's place in the picture; without it the region finder looks for it. Several
        pictures are taken as views of one object. `where` is a filter such as "price < 50".

        `caption` says what the picture shows (`text` says what is wanted). It counts as the doubt of its
        captioner allows, where the catalogue knows that one. Only a catalogue of the regime
        "train+gallery+query" takes one: see `check_query_captions`, and `refining.refined` for captions that
        a captioner makes meanwhile.

        `like` are descriptors (V, D) of one object, such as an item's own, in the place of pictures.
        """
        if caption:
            self.check_query_captions()
        if like is not None:
            if picture is not None:
                raise BadInput("descriptors and pictures are searched one at a time", "leave one of them out")
            like = looking.descriptors(like, self.encoder.dim)
        elif not text and (picture is None or picture == []):
            raise BadInput("nothing to search with", "give a picture, words, or both")
        if top < 1:
            raise BadInput(f"top is {top}", "ask for at least one hit")
        clock = Clock()
        candidates = self._looked(picture, box, clock, caption)
        meaning = self.encoder.texts([text]) if text else None
        with self.store.view() as view:
            self.check_encoder(view)  # it may have come while the picture was encoded
            with clock.stage("search"):
                seen, regions, shortlist = [] if like is None else list(like), [], None
                for places in candidates:
                    place, shortlist = ranking.standing_out(
                        view, np.stack([vector for _, vector in places]), top, where
                    )
                    regions.append(places[place][0])
                    seen.append(places[place][1])
                vector = ranking.combined(seen, None if meaning is None else meaning[0])
                query = Query(vector, tuple(regions), text)
                if shortlist is None or len(seen) > 1 or meaning is not None:
                    shortlist = self._shortlists(view, [query], top, where)[0]
                prominence = -np.inf
                if regions:  # words alone may match a whole catalogue, and nothing asks how they stand out
                    reached = ranking.best_of_items(view, shortlist.keys, shortlist.scores)[1]
                    prominence = ranking.prominence(reached)
                confident = self._confident(prominence) if where is None and not text else None
            with clock.stage("rerank"):
                shortlist = self._finished(view, query, shortlist, where)
            keys, scores = ranking.best_of_items(view, shortlist.keys, shortlist.scores)
            hits = ranking.hits(view, keys[:top], scores[:top])
            version = view.version
        found = [region for region, _ in candidates[0]] if candidates else []
        region = regions[0] if regions else None
        return Hits(hits, region, confident, clock.finish(), prominence, found, version)

    @property
    def regime(self) -> str:
        """Where captions take part in descriptors: one of `values.REGIMES`."""
        return self.store.meta["regime"]

    @property
    def doubts(self) -> dict[str, float]:
        """What share of captions seems to be wrong, 0 to 1, by the captioner's name; see `doubting`."""
        return doubting.kept(self.store.meta)

    @cached_property
    def language(self) -> Floats | None:
        """Where a descriptor's language part is, (D,): ones there, zeros elsewhere; None without language."""
        words = self.encoder.texts(["clothes"])
        return None if words is None else (words[0] != 0).astype(np.float32)

    def check_query_captions(self) -> None:
        """BadInput, with the reason, unless the catalogue was built to be searched with captions."""
        if not captioned(self.encoder):
            raise BadInput(
                f"{self.encoder.name} was not trained with captions, so one cannot help its descriptors",
                "search without, or build the catalogue with such an encoder: --encoder compact",
            )
        if self.regime not in TOLD_QUERIES:
            raise BadInput(
                f"the catalogue was built for the regime {self.regime!r}: its pictures were encoded "
                f"{'with' if self.regime in TOLD_GALLERY else 'without'} captions, queries are bare",
                "search without a caption, or run: lookalike reindex CATALOGUE --regime train+gallery+query",
            )

    def rank(
        self,
        queries: Floats | Iterable[Query],
        top: int | None = None,
        group: bool = False,
        exact: bool = True,
        where: str | None = None,
    ) -> Iterator[tuple[Keys, Floats]]:
        """Rank the gallery for descriptors (Q, D) or queries, in blocks of keys and scores, both (B, T).

        Search, re-ranking, words and grouping are those of `search`; best first. Keys are of regions, or of
        items with `group` (an item scores as its best region). `top` None ranks all that passes `where`;
        where queries find different numbers the rows are filled up with key -1 and score -inf.
        """
        asked = map(Query, queries) if isinstance(queries, np.ndarray) else queries
        with self.store.view() as view:
            self.check_encoder(view)
            size = view.size if top is None else max(top, SHORTLIST if self.reranker else 0)
            for block in indexing.chunks(asked, RANKED_AT_ONCE):
                wanted = None if group and top is not None else size
                lists = self._shortlists(view, block, top or 1, where, exact, wanted)
                ranked = []
                for query, shortlist in zip(block, lists, strict=True):
                    shortlist = self._finished(view, query, shortlist, where)
                    keys, scores = shortlist.keys, shortlist.scores
                    if group:
                        keys, scores = ranking.best_of_items(view, keys, scores)
                        keys = view.owners(keys)
                    ranked.append((keys[:top], scores[:top]))
                yield ranking.filled(ranked)

    def check_encoder(self, view: View | None = None) -> None:
        """WrongEncoder unless the descriptors are the encoder's, which another process may have replaced.

        Those of a `view`, where one is given, stay what they are for as long as it is open.
        """
        encoder = self.encoder
        there = self.store.meta["fingerprint"] if view is None else view.fingerprint
        if there != encoder.fingerprint:
            raise WrongEncoder(
                f"the catalogue was built by {self.store.meta['encoder']} ({there}), "
                f"not by {encoder.name} ({encoder.fingerprint})",
                f"search it with that encoder, or run: lookalike reindex CATALOGUE --encoder {encoder.name}",
            )

    def _parts(self, captioner: Captioner | None) -> Parts:
        fused = self.regime in TOLD_GALLERY
        return Parts(self.encoder, self._gallery_regions, captioner, fused, self.doubts if fused else {})

    def _shortlists(
        self,
        view: View,
        queries: Sequence[Query],
        top: int,
        where: str | None,
        exact: bool = False,
        size: int | None = None,
    ) -> list[Shortlist]:
        """What each query finds: the first `size` regions, or as many as it takes for `top` items."""
        vectors = [query.vector for query in queries if len(query.vector)]
        found: Iterator[Shortlist] = iter(())
        if vectors and size is None:
            found = iter(ranking.shortlists(view, np.stack(vectors), top, where, exact))
        elif vectors and size is not None:
            keys, scores = view.search(np.stack(vectors), size, where, exact)
            found = (Shortlist(*pair, view) for pair in zip(keys, scores, strict=True))
        return [
            next(found)
            if len(query.vector)
            else ranking.by_words(view, *view.words(query.text or "", view.size, where))
            for query in queries
        ]

    def _finished(self, view: View, query: Query, shortlist: Shortlist, where: str | None) -> Shortlist:
        """Re-ranked, and moved by words: by what they mean beside captions, and by those that match."""
        if len(query.vector) == 0:
            return shortlist
        shortlist = self._reranked(query, shortlist)
        if not query.text:
            return shortlist
        words = view.words(query.text, view.size, where)
        bonus = ranking.words_bonus(view, shortlist.keys, *words)
        if not query.regions:  # the descriptor is that of the words
            bonus[:SHORTLIST] += ranking.caption_bonus(view, shortlist.keys[:SHORTLIST], query.vector)
        return shortlist.rescored(shortlist.scores + bonus)

    def _reranked(self, query: Query, shortlist: Shortlist) -> Shortlist:
        """The first `SHORTLIST` in the re-ranker's order, the rest after them as they were."""
        if self.reranker is None or len(shortlist) == 0:
            return shortlist
        head = Shortlist(shortlist.keys[:SHORTLIST], shortlist.scores[:SHORTLIST], shortlist.stored)
        head = self.reranker.rerank(query, head)
        rest = shortlist.scores[SHORTLIST:]
        if len(rest) == 0:
            return head
        below = rest - rest[0] + head.scores[-1]  # a re-ranker has a scale of its own: the order must hold
        keys = np.concatenate([head.keys, shortlist.keys[SHORTLIST:]])
        return Shortlist(keys, np.concatenate([head.scores, below]), shortlist.stored)

    def _looked(
        self,
        picture: PictureLike | Sequence[PictureLike] | None,
        box: Box | None,
        clock: Clock,
        caption: Caption | str = "",
    ) -> list[Candidates]:
        said = Caption(caption, "") if isinstance(caption, str) else caption
        told = said if said.text else None
        doubts = self.doubts if told else {}
        return looking.candidates(picture, box, self._query_regions, self.encoder, clock, told, doubts)

    def _confident(self, prominence: float) -> bool | None:
        threshold = self.store.meta.get("confident_from")
        return None if threshold is None else prominence >= float(threshold)

    def calibrate(self, store: Store) -> None:
        """Set what counts as a confident match, see `calibration.measured`."""
        calibration.keep(store, self.measured(store))

    def measured(self, store: Store) -> dict[str, str | None]:
        """The facts that `calibrate` sets; measuring them takes long, and needs no permission to write."""
        language = self.language if self.regime in TOLD_QUERIES else None
        return calibration.measured(store, lambda picture: self._looked(picture, None, Clock())[0], language)


def captioned(encoder: Encoder) -> bool:
    """Whether the encoder was trained with captions."""
    return bool(getattr(encoder, "captioned", False))
