"""The pipeline over a build's missing fragments, run within the cluster.

Ray Data cannot be led from outside through a `ray://` address. So an actor on the cluster's head leads it,
whatever the address is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, cast

from lookalike.jobs.orders import Order, Outcome, Workers
from lookalike.jobs.working import Worker

AT_ONCE = 10_000  # fragments of a round: Ray's leader keeps 7 kB for each
ROUNDS = 3  # without a fragment made, one after the other: then one of them kills whoever makes it


class Conductor:
    """Makes the fragments with so many workers; each `next` waits for an outcome, None after the last one."""

    def __init__(self, fragments: Sequence[int], order: Order, workers: Workers) -> None:
        self._outcomes = _outcomes(fragments, order, workers)

    def next(self) -> Outcome | None:
        return next(self._outcomes, None)


def _outcomes(fragments: Sequence[int], order: Order, workers: Workers) -> Iterator[Outcome]:
    """All fragments' outcomes; those that were lost with their workers are made again in a later round.

    Ray's own retries are not used. They bind a fragment to its worker, which may wait for room while others
    are free, and they do not cover a machine that is gone but not yet missed.
    """
    remaining, idle = dict.fromkeys(fragments), 0
    while remaining and idle < ROUNDS:
        idle += 1
        for outcome in _round(list(islice(remaining, AT_ONCE)), order, workers):
            del remaining[outcome["fragment"]]
            idle = 0
            yield outcome
    for fragment in remaining:
        yield {
            "fragment": fragment,
            "encoded": 0,
            "encoder_seconds": 0.0,
            "told": "",
            "error": f"whoever makes fragment {fragment} is lost: {ROUNDS} workers were",
            "hint": "have they enough memory? Ray's logs tell; what was made is kept",
        }


def _round(fragments: Sequence[int], order: Order, workers: Workers) -> Iterator[Outcome]:
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.max_errored_blocks = -1  # fragments of lost workers: a worker itself raises nothing
    count = min(workers.count or 1, len(fragments))
    pool = ray.data.ActorPoolStrategy(
        min_size=1,
        max_size=count,
        initial_size=count,
        max_tasks_in_flight_per_actor=1,  # a fragment waits for the first worker that is free
    )
    made = ray.data.from_items(
        [{"fragment": fragment} for fragment in fragments], override_num_blocks=len(fragments)
    ).map(
        cast("Any", Worker),
        fn_constructor_args=(order,),
        compute=pool,
        num_cpus=workers.cpus,
        num_gpus=workers.gpus or None,
        max_restarts=-1,  # of a worker: as often as machines come and go
        max_task_retries=0,
        scheduling_strategy="SPREAD",
    )
    for row in made.iter_rows():
        yield cast("Outcome", row)
