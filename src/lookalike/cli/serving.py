"""The command that serves a catalogue over HTTP, and makes the keys to it."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import signal
import socket
import threading
from collections.abc import Sequence
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lookalike.cli.captioning import CAPTIONER, KeyOption, LlmOption, StrategyOption, VlmOption, plain_asking
from lookalike.cli.output import say
from lookalike.cli.targets import CatalogueArgument, opened, token
from lookalike.errors import BadInput, MissingExtra

if TYPE_CHECKING:  # loaded by the command: `--help` answers at once
    from fastapi import FastAPI

    from lookalike.settings import Asking

_CONFIG = "LOOKALIKE_SERVE"  # hands the options to the processes that uvicorn starts
_HOSTS = ("127.0.0.1", "localhost", "[::1]")


def serve(
    place: CatalogueArgument,
    host: Annotated[str, typer.Option("--host", help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0: any that is free.")] = 8080,
    new_key: Annotated[
        str | None,
        typer.Option("--new-key", metavar="search|write|admin", help="Print a new key, once, and end."),
    ] = None,
    keys: Annotated[
        bool, typer.Option("--keys", help="List the keys, without their secrets, and end.")
    ] = False,
    remove_key: Annotated[
        str | None,
        typer.Option("--remove-key", metavar="ID", help="Let a key open nothing any more, and end."),
    ] = None,
    keys_file: Annotated[
        Path | None,
        typer.Option("--keys-file", metavar="FILE", help="Where the keys are kept; CATALOGUE/keys.json."),
    ] = None,
    read_only: Annotated[
        bool, typer.Option("--read-only", help="Nobody writes to the catalogue, whatever key they have.")
    ] = False,
    private: Annotated[
        bool, typer.Option("--private", help="Searching needs a key, on loopback too.")
    ] = False,
    open_: Annotated[
        bool, typer.Option("--open", help="Searching needs no key, whoever can reach the address.")
    ] = False,
    per_minute: Annotated[
        int | None, typer.Option("--per-minute", min=1, help="Requests of one key or address.")
    ] = None,
    proxy: Annotated[
        list[str] | None,
        typer.Option("--proxy", metavar="ADDRESS|NETWORK", help="Whose X-Forwarded-For is believed."),
    ] = None,
    urls: Annotated[bool, typer.Option("--urls", help="Pictures may be named by URL.")] = False,
    url_host: Annotated[
        list[str] | None,
        typer.Option("--url-host", metavar="HOST|HOST:PORT", help="Only by those of this host; repeatable."),
    ] = None,
    captions: Annotated[
        str | None,
        typer.Option("--captions", metavar=CAPTIONER, help="Who writes captions of queries that want one."),
    ] = None,
    vlm: VlmOption = None,
    llm: LlmOption = None,
    strategy: StrategyOption = "attributes",
    key_file: KeyOption = None,
    deadline: Annotated[float, typer.Option("--deadline", min=0, help="Seconds for such a caption.")] = 10.0,
    rerank: Annotated[
        str | None, typer.Option("--rerank", metavar="NAME|none", help="How hits are re-ranked.")
    ] = None,
    regions: Annotated[
        str | None, typer.Option("--regions", metavar="NAME", help="How the object is found in a picture.")
    ] = None,
    metrics_port: Annotated[
        int | None,
        typer.Option("--metrics-port", min=1, max=65535, help="Prometheus metrics, on loopback."),
    ] = None,
    metrics_host: Annotated[
        str, typer.Option("--metrics-host", help="Another address for them.")
    ] = "127.0.0.1",
    workers: Annotated[
        int, typer.Option("--workers", min=1, help="Processes; each has an encoder of its own.")
    ] = 1,
) -> None:
    """Serve a catalogue: a page to drop a photo on at /, an API at /v1 (see /docs)."""
    try:
        import fastapi  # noqa: F401
        import uvicorn
        from uvicorn.supervisors import Multiprocess
    except ImportError:
        raise MissingExtra("a service", "serve") from None
    from lookalike.settings import files_of, store_exists
    from lookalike.store import is_address

    if is_address(place) and (new_key or keys or remove_key) and keys_file is None:
        raise BadInput("keys are kept in a file, and a server has none", "name one: --keys-file FILE")
    if new_key or keys or remove_key:
        _of_keys(Path(place), keys_file, new_key, keys, remove_key)
        return
    if is_address(place) and not read_only:
        raise BadInput(
            "a catalogue in a server is served without writing to it",
            "add --read-only; lookalike index writes",
        )
    store_exists(place, token())  # a build is refused
    catalogue = files_of(place)
    from lookalike.server.access import Access, Keys
    from lookalike.server.connections import Connection
    from lookalike.server.fetching import check_hosts
    from lookalike.settings import open_captioner

    # What the service will open is opened once here, so that what is wrong is said before it starts.
    asking = [vlm, llm, strategy, None if key_file is None else str(key_file)]
    with opened(place, query_regions=regions, rerank=rerank) as served:
        if captions is not None:
            open_captioner(captions, _asking(captions, asking))
            served.check_query_captions()
    kept = Keys(catalogue, keys_file)
    Access(kept, private, per_minute, proxy or [])
    check_hosts(url_host or [])
    if url_host and not urls:
        raise BadInput("--url-host says which URLs, and none are fetched", "add --urls")
    if private and open_:
        raise BadInput("--private and --open contradict each other", "leave one of them out")
    if not _loopback(host) and not open_ and not kept.listed():
        elsewhere = f" --keys-file {keys_file}" if keys_file else ""
        raise BadInput(
            f"{host} can be reached by others, and there are no keys",
            f"make one: lookalike serve {place}{elsewhere} --new-key search; or say --open",
        )
    told = {
        "catalogue": place, "folder": str(catalogue), "keys": None if keys_file is None else str(keys_file),
        "read_only": read_only, "query_regions": regions, "rerank": rerank, "captions": captions,
        "asking": asking, "deadline_s": deadline,
        "searching_needs_key": private or not (open_ or _loopback(host)), "per_minute": per_minute,
        "proxies": proxy or [], "urls": urls, "url_hosts": url_host or [],
        # Another site's name that leads to loopback (DNS rebinding) is not answered.
        "hosts": _HOSTS if _loopback(host) and not proxy else [],
        "metrics": [metrics_host, metrics_port] if metrics_port else None, "workers": workers,
    }  # fmt: skip
    config = uvicorn.Config(
        "lookalike.cli.serving:app_of_worker", factory=True, workers=workers, log_config=None,
        access_log=False, server_header=False, proxy_headers=False, http=Connection, ws="none",
        h11_max_incomplete_event_size=32 * 1024, timeout_keep_alive=10, timeout_graceful_shutdown=30,
    )  # fmt: skip
    with _listening(host, port) as listening:
        shown = f"[{host}]" if ":" in host else host
        say(f"http://{shown}:{listening.getsockname()[1]}/  (API: /docs)")
        if workers > 1:
            with TemporaryDirectory(prefix="lookalike-") as shared:
                os.environ[_CONFIG] = json.dumps({**told, "counted_in": str(Path(shared) / "rates.sqlite")})
                Multiprocess(config, sockets=[listening]).run()
            return
        os.environ[_CONFIG] = json.dumps(told)
        server = uvicorn.Server(config)
        signal.signal(signal.SIGTERM, lambda *_: None)  # once all is answered uvicorn raises it again
        server.run(sockets=[listening])
    if not server.started:
        raise typer.Exit(1)


def app_of_worker() -> FastAPI:
    """The app of one process, by the options that `serve` was given."""
    from lookalike import memory
    from lookalike.server.app import Config, create_app
    from lookalike.server.connections import make_room
    from lookalike.server.watch import configure_logs

    memory.keep()
    if parent := multiprocessing.parent_process():
        threading.Thread(target=_end_after, args=[parent], name="lookalike-parent", daemon=True).start()
    told: dict[str, Any] = json.loads(os.environ[_CONFIG])
    asking, metrics = told.pop("asking"), told.pop("metrics")
    configure_logs("info")
    make_room()
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # it tells of every malformed form
    told |= {"asking": _asking(told["captions"], asking)} if told["captions"] else {}
    told |= {"metrics": tuple(metrics)} if metrics else {}
    keys = told["keys"] and Path(told["keys"])
    told |= {"counted_in": Path(told["counted_in"])} if "counted_in" in told else {}
    told |= {"folder": Path(told["folder"]), "keys": keys, "token": token()}
    return create_app(Config(**told))


def _end_after(parent: multiprocessing.process.BaseProcess) -> None:
    """Stop in good order when the process that started this one has gone, however it ended."""
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)


def _asking(captions: str, told: Sequence[str | None]) -> Asking:
    """How captions of queries are asked for: little is tried again, and nothing of a query goes to disk."""
    vlm, llm, strategy, key_file = told
    made = plain_asking(captions, vlm, llm, strategy or "attributes", Path(key_file) if key_file else None)
    return replace(made, attempts=2, cache=None)


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        reason = error.strerror or str(error)
        raise BadInput(f"cannot listen on {host}, port {port}: {reason}", "choose another: --port") from error


def _of_keys(
    catalogue: Path, keys_file: Path | None, new_key: str | None, listed: bool, removed: str | None
) -> None:
    from lookalike.server.access import Keys
    from lookalike.store import LocalStore

    if keys_file is None:  # a file of keys may be made where the catalogue is not
        LocalStore(catalogue).close()
    keys = Keys(catalogue, keys_file)
    if new_key is not None:
        typer.echo(keys.new(new_key))  # type: ignore[arg-type]
        typer.echo("keep it: it is not shown again", err=True)
    if removed is not None:
        keys.remove(removed)
    if listed:
        for key in keys.listed():
            say(f"{key.id}  {key.scope:6}  {key.created}")


def _loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
