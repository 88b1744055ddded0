"""Watching the service: metrics on a port of their own, one log line a request, and whether it is ready.

No metric and no line holds a file's name, a path, a query, an address, a key or anything that was sent:
routes are named by their templates, askers by the ids of their keys, errors by type and where they arose.
"""

from __future__ import annotations

import errno
import logging
import re
import secrets
import sys
import time
from collections.abc import Callable, Iterator, MutableMapping
from types import TracebackType
from typing import Any, Literal

import structlog
from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    generate_latest,
    start_http_server,
)
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import lookalike
from lookalike.errors import BadInput, LookalikeError, WrongEncoder
from lookalike.server.problems import Problem
from lookalike.values import Counts

Refusal = Literal["queue", "rate", "auth", "body"]
Event = MutableMapping[str, Any]

_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
_STAGE_SECONDS = (0.001, 0.002, *_SECONDS)
_BATCHES = (1, 2, 4, 8, 16, 32)
_REFUSALS: dict[int, Refusal] = {401: "auth", 403: "auth", 408: "body", 413: "body"}
_METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS")  # others are whatever a stranger typed
_GIVEN_ID = re.compile(rb"[A-Za-z0-9-]{8,64}")
_GUARDS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}  # others set them further in
_LEFT = 499  # no answer went out: the client left, or the service was stopped


class Watch:
    """What one process counts, in a registry of its own. Safe to call from any thread."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        about = Info("lookalike_build", "The version that runs.", registry=registry)
        about.info({"version": lookalike.__version__})
        self._requests = Histogram(
            "lookalike_request_seconds",
            "From a request's head to its answer's last byte.",
            ["route", "method", "status"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._stages = Histogram(
            "lookalike_stage_seconds",
            "Stages of searches: wait is for a turn, total from the turn on.",
            ["stage"],
            buckets=_STAGE_SECONDS,
            registry=registry,
        )
        self._waiting = Gauge(
            "lookalike_waiting_requests", "Requests in line or worked on.", registry=registry
        )
        self._refused = Counter(
            "lookalike_refused_requests", "Requests turned away, and why.", ["why"], registry=registry
        )
        self._batches = Histogram(
            "lookalike_encoder_batch",
            "Regions that one pass of the encoder took.",
            buckets=_BATCHES,
            registry=registry,
        )
        self._encoding = Counter(
            "lookalike_encoder_busy_seconds", "Time that the encoder's passes took.", registry=registry
        )
        self._captions = Counter(
            "lookalike_captions", "What became of queries' captions.", ["outcome"], registry=registry
        )

    def request(self, route: str, method: str, status: int, seconds: float) -> None:
        """One answered request; `route` is its template, such as "/v1/items/{id}"."""
        self._requests.labels(route, method, str(status)).observe(seconds)

    def stage(self, name: str, seconds: float) -> None:
        """One stage of a search: decode, region, encode, search, rerank, wait or total."""
        self._stages.labels(name).observe(seconds)

    def count_waiting(self, ask: Callable[[], int]) -> None:
        """`ask` says how many requests are in line or worked on, whenever metrics are read."""
        self._waiting.set_function(ask)

    def refused(self, why: Refusal) -> None:
        self._refused.labels(why).inc()

    def batch(self, size: int, seconds: float) -> None:
        """One pass of the encoder: how many regions, how long; of parallel passes the seconds add up."""
        self._batches.observe(size)
        self._encoding.inc(seconds)

    def caption(self, outcome: str) -> None:
        """What became of a query's caption, see `refining.Outcome`."""
        self._captions.labels(outcome).inc()

    def follow(self, ask: Callable[[], tuple[Counts, str]]) -> None:
        """Tell of the catalogue: `ask` says what it holds and its version, whenever metrics are read."""
        self.registry.register(_Followed(ask))

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)


class _Followed(Collector):
    """The catalogue as it is when metrics are read: others may write to it too."""

    def __init__(self, ask: Callable[[], tuple[Counts, str]]) -> None:
        self._ask = ask
        self._version, self._since = "", 0.0

    def describe(self) -> Iterator[Metric]:
        """Nothing, so that registering asks nothing."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        readable = GaugeMetricFamily("lookalike_catalogue_readable", "0 where the catalogue gives an error.")
        try:
            counts, version = self._ask()
        except Exception:  # the other metrics are told whatever is wrong with it
            readable.add_metric([], 0)
            yield readable
            return
        readable.add_metric([], 1)
        yield readable
        holds = GaugeMetricFamily("lookalike_catalogue_entries", "What the catalogue holds.", labels=["kind"])
        for kind in ("items", "pictures", "regions", "captions"):
            holds.add_metric([kind], getattr(counts, kind))
        yield holds
        if version != self._version:
            self._version, self._since = version, time.time()
        yield InfoMetricFamily(
            "lookalike_catalogue_version", "The version that is searched.", {"version": version}
        )
        yield GaugeMetricFamily(
            "lookalike_catalogue_changed_timestamp_seconds", "When that version was first seen.", self._since
        )


class MetricsServer:
    """Answers Prometheus on a port of its own, from a thread of its own, until closed."""

    def __init__(self, watch: Watch, host: str, port: int) -> None:
        self._server, self._thread = start_http_server(port, host, watch.registry)
        self.port: int = self._server.server_port  # the one chosen, where 0 was asked for

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def serve_metrics(watch: Watch, host: str, port: int, workers: int = 1) -> MetricsServer:
    """Serve `watch` at http://host:port/metrics.

    Of several `workers`, each a process that calls this, each takes the first port from `port` on that is
    free, so that each can be asked. BadInput where none is.
    """
    for place in range(port, port + workers):
        try:
            return MetricsServer(watch, host, place)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or place == port + workers - 1:
                raise BadInput(
                    f"metrics cannot be served on {host}:{place}: {error.strerror}",
                    "choose another --metrics-port",
                ) from error
    raise AssertionError("no workers")


log: structlog.stdlib.BoundLogger = structlog.wrap_logger(
    logging.getLogger("lookalike.server"),
    processors=[
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
    ],
    wrapper_class=structlog.stdlib.BoundLogger,
)


class Watched:
    """ASGI middleware: an id for each request, a line and metrics for each answer.

    An id that the client sends as X-Request-ID is kept where it is 8 to 64 letters, digits and hyphens. What
    nobody foresaw is logged with where it arose and answered with 500.
    """

    def __init__(self, app: ASGIApp, watch: Watch) -> None:
        self._app, self._watch = app, watch

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status, arrived = time.perf_counter(), _LEFT, 0
        request_id = _given_id(scope) or secrets.token_hex(8)

        async def counted() -> Message:
            nonlocal arrived
            message = await receive()
            arrived += len(message.get("body", b""))
            return message

        async def named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id.encode())]
            await send(message)

        with structlog.contextvars.bound_contextvars(id=request_id):
            try:
                await self._app(scope, counted, named)
            except ClientDisconnect:
                pass  # nobody is there to be answered
            except Exception as error:
                log.error("unforeseen", exc_info=error)
                if status == _LEFT:
                    told = "something went wrong here; the log knows it by this answer's X-Request-ID"
                    problem = Problem(500, told, headers=_GUARDS)
                    await problem.response()(scope, counted, named)
            finally:
                self._note(scope, status, arrived, time.perf_counter() - started)

    def _note(self, scope: Scope, status: int, arrived: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "-")
        method = scope["method"] if scope["method"] in _METHODS else "-"
        self._watch.request(route, method, status, seconds)
        if status in _REFUSALS:
            self._watch.refused(_REFUSALS[status])
        quiet = status == 200 and route in ("/healthz", "/readyz")
        log.log(
            logging.DEBUG if quiet else logging.INFO,
            "request",
            method=method,
            route=route,
            status=status,
            ms=round(1000 * seconds, 1),
            bytes_in=arrived,
            who=scope.get("state", {}).get("key", "-"),
        )


def _given_id(scope: Scope) -> str | None:
    given = [value for name, value in scope["headers"] if name == b"x-request-id"]
    return given[0].decode() if len(given) == 1 and _GIVEN_ID.fullmatch(given[0]) else None


def configure_logs(level: str) -> None:
    """Have this process log to stderr, a JSON document a line; for the command, not for the library.

    `level` is debug, info, warning or error. Of errors the types and the lines of code are told; what they
    say is told at debug only, since it may name files or quote what was sent.
    """
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[structlog.contextvars.merge_contextvars, _one_line],
        processors=[
            structlog.stdlib.add_log_level,
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.TimeStamper("iso", key="time"),
            _Errors(messages=level == "debug"),
            _ordered,
            structlog.processors.JSONRenderer(),
        ],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    for ours in ("lookalike", "uvicorn"):
        logging.getLogger(ours).setLevel(level.upper())


class _Errors:
    """Puts errors into a line: each with its type and its places, what caused it after it."""

    def __init__(self, messages: bool) -> None:
        self._messages = messages

    def __call__(self, logger: object, method: str, event: Event) -> Event:
        error = event.pop("exc_info", None)
        if isinstance(error, tuple):
            error = error[1]
        if isinstance(error, BaseException):
            event["errors"] = [self._told(each) for each in _chain(error)]
        return event

    def _told(self, error: BaseException) -> dict[str, Any]:
        told: dict[str, Any] = {"type": type(error).__name__, "at": list(_places(error.__traceback__))}
        if self._messages:
            told["message"] = str(error)
        return told


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _places(trace: TracebackType | None) -> Iterator[str]:
    """Module, line and function, outermost first: those of this package, and where it arose."""
    while trace is not None:
        module = trace.tb_frame.f_globals.get("__name__", "?")
        if module.startswith("lookalike.") or trace.tb_next is None:
            yield f"{module}:{trace.tb_lineno} {trace.tb_frame.f_code.co_name}"
        trace = trace.tb_next


def _one_line(logger: object, method: str, event: Event) -> Event:
    """Other packages' lines: the first one, or of a traceback the last, which says what it was."""
    lines = str(event["event"]).splitlines() or [""]
    event["event"] = lines[-1 if lines[0].startswith("Traceback") else 0][:300]
    return event


def _ordered(logger: object, method: str, event: Event) -> Event:
    return {name: event.pop(name) for name in ("time", "level", "event", "id") if name in event} | dict(event)


health = APIRouter(tags=["health"])


@health.get("/healthz")
async def alive() -> dict[str, str]:
    """The process answers."""
    return {"status": "alive"}


@health.get("/readyz", responses={503: {"description": "not ready, or not any more"}})
async def ready(request: Request) -> dict[str, str]:
    """A search would be answered: catalogue open and readable, encoder warm and still its, decoders alive."""
    state = request.app.state
    if not getattr(state, "ready", False):
        raise _not_ready("starting or closing")
    if not state.service.decoder.alive:
        raise _not_ready("no worker decodes pictures")
    catalogue = state.service.catalogue
    try:
        await run_in_threadpool(catalogue.check_encoder)
    except WrongEncoder:
        raise _not_ready("the catalogue was encoded anew: the service has to be started again") from None
    except LookalikeError:
        raise _not_ready("the catalogue cannot be read") from None
    return {"status": "ready"}


def _not_ready(why: str) -> Problem:
    return Problem(503, f"not ready: {why}", headers={"Retry-After": "1"})
