"""The service put together: one catalogue, its parts, the endpoints, and what stands before them."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from fastapi import FastAPI

from lookalike import __version__
from lookalike.catalogue import Catalogue
from lookalike.server import items, jobs, pages, pictures, searching, watch
from lookalike.server.access import Access, Keys
from lookalike.server.batching import Batched
from lookalike.server.bodies import Bodies, Guarded
from lookalike.server.cores import cores
from lookalike.server.decoding import Decoder
from lookalike.server.fetching import Fetcher
from lookalike.server.limits import Limits
from lookalike.server.problems import RESPONSES, handle
from lookalike.server.running import Runner
from lookalike.server.service import Counted, Service, public_name
from lookalike.server.watch import Watch, Watched, serve_metrics
from lookalike.settings import Asking, Settings, open_captioner, open_catalogue, open_encoder, open_store
from lookalike.values import Picture, Region

ABOUT = "Find the same product in a catalogue from a photo, from words, or from both."


@dataclass(frozen=True, slots=True)
class Config:
    """How a service is run; everything else is in the catalogue."""

    catalogue: str  # a folder, or an address in a server
    folder: Path  # where files are kept: its own, or one for an address
    token: str | None = field(default=None, repr=False)  # for an address
    keys: Path | None = None  # where the keys are kept; None: in the catalogue's folder
    read_only: bool = False  # nothing but thumbnails is written; so it is where nothing can be
    query_regions: str | None = None
    rerank: str | None = None
    captions: str | None = None  # who writes captions of queries; None: nobody
    asking: Asking = field(default_factory=Asking)
    deadline_s: float = 10.0
    searching_needs_key: bool = False
    per_minute: int | None = None  # requests of one key or address; None: as many as it likes
    counted_in: Path | None = None  # the file of these counts, where several processes share them
    proxies: Sequence[str] = ()  # addresses or networks whose X-Forwarded-For is believed
    hosts: Sequence[str] = ()  # names that the service answers to; none: any
    urls: bool = False  # whether pictures may be named by URL
    url_hosts: Sequence[str] = ()  # whose pictures may be; none: any in the public internet
    metrics: tuple[str, int] | None = None  # host and port
    workers: int = 1  # processes like this one
    limits: Limits = field(default_factory=Limits)


def create_app(config: Config) -> FastAPI:
    """The service as an ASGI app; what it needs is opened when it starts, and closed when it ends."""
    watching = Watch()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service = _service(config, watching)
        app.state.service = service
        await service.decoder.start()
        await service.run(_warm, service.catalogue)
        runner = None if service.read_only else Runner(service)
        watching.follow(lambda: (service.catalogue.store.count(), service.version()))
        metrics = serve_metrics(watching, *config.metrics, config.workers) if config.metrics else None
        app.state.ready = True
        yield
        app.state.ready = False
        if metrics:
            metrics.close()
        if runner:
            await runner.stop()
        await service.close()

    app = FastAPI(
        title="lookalike", version=__version__, summary=ABOUT, lifespan=lifespan,
        docs_url=None, redoc_url=None, redirect_slashes=False, responses=RESPONSES,
    )  # fmt: skip
    app.state.ready = False
    for module in (searching, items, jobs, pictures, pages):
        app.include_router(module.router)
    app.include_router(watch.health)
    handle(app)
    app.add_middleware(Bodies, limits=config.limits, on_full=lambda: watching.refused("queue"))
    app.add_middleware(Guarded, hosts=config.hosts)
    app.add_middleware(Watched, watch=watching)  # the last one is the outermost
    return app


def _service(config: Config, watching: Watch) -> Service:
    folder, processors = config.folder, cores()
    with open_store(config.catalogue, token=config.token) as store:
        named = store.meta["encoder"]
    # As many passes at a time as there are cores, each on one: more is done than by one pass on all.
    passes = max(1, processors // config.workers)
    encoder = Batched(open_encoder(named, threads=1), watching.batch, passes, public_name(named))
    settings = Settings(encoder, query_regions=config.query_regions, rerank=config.rerank, token=config.token)
    catalogue = open_catalogue(config.catalogue, settings, create=False)
    limits = config.limits.on(passes)
    return Service(
        catalogue=catalogue,
        folder=folder,
        limits=limits,
        decoder=Decoder(limits, processors),
        access=Access(
            Keys(folder, config.keys),
            config.searching_needs_key,
            config.per_minute,
            config.proxies,
            counted_in=config.counted_in,
        ),
        watch=watching,
        fetcher=Fetcher(limits, config.url_hosts) if config.urls else None,
        captioner=Counted(open_captioner(config.captions, config.asking)) if config.captions else None,
        deadline_s=config.deadline_s,
        read_only=config.read_only or not os.access(folder, os.W_OK),
    )


def _warm(catalogue: Catalogue) -> None:
    """Load the encoder and the gallery before anybody waits for them."""
    grey = Picture.of(np.full((64, 64, 3), 128, np.uint8))
    catalogue.search(Region(grey), top=1)
