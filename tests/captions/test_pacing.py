import asyncio
import math
import random
from collections.abc import Awaitable, Callable

import pytest
from swift_time import now, swiftly

from lookalike.captions.chat import CallFailed, Reply
from lookalike.captions.pacing import BudgetSpent, Late, Pace, Waits
from lookalike.errors import BadInput

Answer = Callable[[int], CallFailed | None]


class Server:
    """Takes `takes` seconds for a reply; call number n fails with `answer(n)` where that is something."""

    def __init__(self, answer: Answer = lambda number: None, takes: float = 0.0) -> None:
        self.answer, self.takes = answer, takes
        self.began: list[float] = []
        self.inside = self.most_inside = 0

    async def __call__(self) -> Reply:
        number = len(self.began)
        self.began.append(now())
        self.inside += 1
        self.most_inside = max(self.most_inside, self.inside)
        try:
            if self.takes:
                await asyncio.sleep(self.takes)
            error = self.answer(number)
            if error is not None:
                raise error
            return Reply(str(number))
        finally:
            self.inside -= 1


def down(*_: int) -> CallFailed:
    return CallFailed("the server is down", again=True, status=503)


def in_turn(*outcomes: CallFailed | None) -> Answer:
    return lambda number: outcomes[number] if number < len(outcomes) else None


def most_within(moments: list[float], seconds: float) -> int:
    return max(sum(start <= moment < start + seconds for moment in moments) for start in moments)


def together(pace: Pace, calls: int, call: Callable[[], Awaitable[Reply]], tokens: int = 0) -> list[object]:
    async def all_of_them() -> list[object]:
        return await asyncio.gather(*(pace.run(call, tokens) for _ in range(calls)), return_exceptions=True)

    return swiftly(all_of_them())


@pytest.mark.parametrize(
    ("rate", "late"), [(20.0, 0.0), (20.0, 0.04), (0.5, 0.04), (200.0, 0.005), (7.3, 0.02)]
)
def test_a_rate_of_calls_is_reached_and_not_exceeded(rate: float, late: float) -> None:
    server = Server(takes=0.3)
    pace = Pace(concurrency=1000, requests_per_s=rate)

    async def calls() -> None:
        await asyncio.gather(*(pace.run(server) for _ in range(300)))

    swiftly(calls(), late)
    reached = (len(server.began) - 1) / (server.began[-1] - server.began[0])
    assert reached >= 0.97 * rate
    # A second that is closed at both ends, and the clock's own grain:
    assert most_within(server.began, 1.0) <= math.floor(rate + 1 + rate / 20) + 1


@pytest.mark.parametrize("late", [0.0, 0.01, 0.04])
def test_a_strict_server_refuses_few_calls_that_are_made_at_its_limit(late: float) -> None:
    """It takes no more than 20 calls in any second, and names the pause until it takes the next."""
    taken: list[float] = []
    refused: list[float] = []

    async def server() -> Reply:
        recent = [moment for moment in taken if moment > now() - 1]
        if len(recent) >= 20:
            refused.append(now())
            raise CallFailed("slowly", again=True, status=429, after_s=recent[-20] + 1 - now())
        taken.append(now())
        return Reply("yes")

    pace = Pace(concurrency=100, requests_per_s=20)

    async def calls() -> None:
        await asyncio.gather(*(pace.run(server) for _ in range(400)))

    swiftly(calls(), late)
    assert len(taken) == 400
    assert len(refused) <= 20
    assert 399 / (taken[-1] - taken[0]) >= 0.95 * 20


def test_a_rate_of_tokens_is_reached_and_not_exceeded() -> None:
    draw = random.Random(1)
    sizes = [draw.choice([50, 400, 3000]) for _ in range(400)]
    spent: list[tuple[float, int]] = []
    pace = Pace(concurrency=16, tokens_per_min=20_000)

    async def ask(size: int) -> None:
        async def call() -> Reply:
            spent.append((now(), size))
            return Reply("")

        await pace.run(call, size)

    async def asks() -> None:
        await asyncio.gather(*map(ask, sizes))

    swiftly(asks(), late=0.01)
    minutes = (spent[-1][0] - spent[0][0]) / 60
    assert sum(sizes) / minutes >= 0.97 * 20_000
    for start, _ in spent:
        assert sum(size for moment, size in spent if start <= moment < start + 60) <= 22_000 + 3000


def test_large_asks_wait_no_longer_than_small_ones_that_came_later() -> None:
    went: list[str] = []
    pace = Pace(concurrency=100, tokens_per_min=6000)

    async def ask(name: str, tokens: int) -> None:
        async def call() -> Reply:
            went.append(name)
            return Reply("")

        await pace.run(call, tokens)

    async def asks() -> None:
        await asyncio.gather(ask("first", 600), ask("large", 5000), *(ask("small", 5) for _ in range(50)))

    swiftly(asks())
    assert went[:2] == ["first", "large"]


def test_so_many_calls_run_at_once_and_no_more() -> None:
    server = Server(takes=1.0)
    together(Pace(concurrency=5), 40, server)
    assert server.most_inside == 5
    assert server.began[-1] - server.began[0] == pytest.approx(7, abs=0.01)


def test_what_may_pass_is_tried_again_and_the_time_accounted_for(caplog: pytest.LogCaptureFixture) -> None:
    server = Server(in_turn(down(), down()), takes=2.0)

    async def call() -> tuple[Reply | CallFailed, Waits, float]:
        began = now()
        return *await Pace().run(server), now() - began

    reply, waits, took = swiftly(call())
    assert reply == Reply("2")
    assert waits.retries == 2
    assert waits.retry_ms == pytest.approx((server.began[2] - server.began[0]) * 1e3)
    assert waits.queue_ms + waits.retry_ms + 2000 == pytest.approx(took * 1e3, abs=1)
    assert caplog.records == []


def test_the_pauses_between_tries_grow_at_random() -> None:
    servers = [Server(down) for _ in range(200)]

    async def calls() -> None:
        await asyncio.gather(*(Pace(breaker=100).run(server) for server in servers))

    swiftly(calls())
    assert {len(server.began) for server in servers} == {6}
    for place, longest in enumerate([1, 2, 4, 8, 16]):
        pauses = [server.began[place + 1] - server.began[place] for server in servers]
        assert max(pauses) <= longest + 1e-3
        assert min(pauses) < 0.1 * longest
        assert 0.4 * longest < sum(pauses) / len(pauses) < 0.6 * longest


@pytest.mark.parametrize("status", [400, 401, 404, 422])
def test_what_cannot_pass_is_not_tried_again(status: int) -> None:
    error = CallFailed("no", status=status)
    server = Server(lambda number: error)
    [(outcome, waits)] = together(Pace(), 1, server)
    assert outcome is error
    assert len(server.began) == 1
    assert waits.retries == 0


def test_after_the_last_try_the_last_error_is_handed_on() -> None:
    server = Server(
        lambda number: CallFailed(f"try {number}", "look at it", again=True, status=500), takes=1.0
    )
    [(outcome, waits)] = together(Pace(attempts=3), 1, server)
    assert (str(outcome), outcome.hint, outcome.status) == ("try 2", "look at it", 500)
    assert waits.retries == 2
    assert waits.retry_ms >= 3000


def test_nobody_calls_before_the_pause_that_a_server_asks_for_is_over() -> None:
    answer = in_turn(None, None, CallFailed("slowly", again=True, status=429, after_s=30))
    server = Server(answer, takes=1.0)
    outcomes = together(Pace(concurrency=3), 20, server)
    assert all(isinstance(reply, Reply) for reply, _ in outcomes)
    assert len(server.began) == 21
    refused = server.began[2] + 1
    during = [moment for moment in server.began if refused < moment < refused + 30 - 1e-3]
    assert during == []


def test_a_pause_of_hours_is_not_waited_for() -> None:
    server = Server(lambda number: CallFailed("come back tomorrow", again=True, status=429, after_s=36_000))
    pace = Pace(concurrency=1)

    async def calls() -> tuple[CallFailed, CallFailed, float]:
        began = now()
        (first, _), (second, _) = await pace.run(server), await pace.run(server)
        return first, second, now() - began

    first, second, took = swiftly(calls())
    assert str(first) == "come back tomorrow"
    assert "wants no calls for 36000 s" in str(second)
    assert len(server.began) == 1
    assert took < 1


def test_no_try_begins_after_the_deadline_and_none_is_broken_off_by_it() -> None:
    slow, quick = Server(takes=10.0), Server()
    pace = Pace(concurrency=1)

    async def calls() -> list[tuple[Reply | CallFailed, Waits]]:
        return await asyncio.gather(
            pace.run(slow, deadline=now() + 5), pace.run(quick, deadline=now() + 5), pace.run(quick)
        )

    (under_way, _), (late, waits), (patient, _) = swiftly(calls())
    assert under_way == Reply("0")
    assert isinstance(late, Late)
    assert not late.again
    assert waits.queue_ms == pytest.approx(5000, abs=1)
    assert patient == Reply("0")
    assert len(quick.began) == 1


def test_a_deadline_that_has_passed_lets_no_call_out() -> None:
    server = Server()

    async def call() -> Reply | CallFailed:
        return (await Pace().run(server, deadline=now() - 1))[0]

    assert isinstance(swiftly(call()), Late)
    assert server.began == []


def test_a_pause_that_would_outlast_the_deadline_is_not_begun() -> None:
    server = Server(lambda number: CallFailed("slowly", again=True, status=429, after_s=30))

    async def call() -> tuple[Reply | CallFailed, float]:
        began = now()
        return (await Pace().run(server, deadline=now() + 10))[0], now() - began

    outcome, took = swiftly(call())
    assert isinstance(outcome, Late)
    assert "slowly" in str(outcome)
    assert took < 1


def test_after_five_failures_in_a_row_nobody_calls_for_a_while() -> None:
    server = Server(down)
    pace = Pace(attempts=1)

    async def calls() -> list[Reply | CallFailed]:
        return [(await pace.run(server))[0] for _ in range(12)]

    outcomes = swiftly(calls())
    assert len(server.began) == 5
    assert [str(outcome) for outcome in outcomes[:5]] == ["the server is down"] * 5
    assert all("not asked" in str(outcome) and outcome.again for outcome in outcomes[5:])


def test_answers_between_failures_keep_the_breaker_closed() -> None:
    refused = CallFailed("no", status=400)
    hasty = CallFailed("slowly", again=True, status=429)
    answers = [*[down()] * 4, refused, *[down()] * 4, hasty, *[down()] * 4, None, *[down()] * 4]
    server = Server(in_turn(*answers))
    pace = Pace(attempts=1)

    async def calls() -> None:
        for _ in answers:
            await pace.run(server)

    swiftly(calls())
    assert len(server.began) == len(answers)


def test_one_call_finds_out_whether_the_server_is_back() -> None:
    back = False
    server = Server(lambda number: None if back else down(), takes=1.0)
    pace = Pace(attempts=1, concurrency=50, budget=1.0, pause_s=10)

    async def calls() -> None:
        nonlocal back
        for _ in range(5):
            await pace.run(server)
        await asyncio.sleep(10)
        probing = asyncio.gather(*(pace.run(server) for _ in range(20)))
        await asyncio.sleep(0.5)
        assert len(server.began) == 6
        await probing  # it is still down: the other nineteen are not made
        assert len(server.began) == 6
        back = True
        await asyncio.sleep(10)
        began = now()
        outcomes = await asyncio.gather(*(pace.run(server) for _ in range(20)))
        assert all(isinstance(reply, Reply) for reply, _ in outcomes)
        assert now() - began == pytest.approx(2, abs=0.01)  # the one, then the others at once

    swiftly(calls())
    assert len(server.began) == 26


def test_a_batch_outlives_a_server_that_is_away_for_half_a_minute() -> None:
    server = Server(takes=1.0)
    pace = Pace(concurrency=8)

    async def calls() -> list[tuple[Reply | CallFailed, Waits]]:
        away = now() + 5, now() + 35
        server.answer = lambda number: down() if away[0] < now() < away[1] else None
        return await asyncio.gather(*(pace.run(server) for _ in range(200)))

    outcomes = swiftly(calls())
    assert all(isinstance(reply, Reply) for reply, _ in outcomes)
    assert len(server.began) < 200 + 8 + 5  # what was under way when it went, and a few that looked


def test_the_run_ends_when_more_than_a_fifth_of_the_last_hundred_calls_failed() -> None:
    broken = CallFailed("no such model", "pull it", status=404)
    answers = ([None] * 4 + [broken]) * 40 + [broken]
    server = Server(in_turn(*answers))
    pace = Pace()

    async def calls() -> None:
        for _ in range(200):
            await pace.run(server)
        with pytest.raises(
            BudgetSpent, match="21 of the last 100 calls failed; this one: no such model"
        ) as caught:
            await pace.run(server)
        assert caught.value.hint == "pull it"
        assert isinstance((await pace.run(server))[0], Reply)  # a server that serves for ever goes on

    swiftly(calls())


def test_a_server_that_is_away_for_good_ends_the_run() -> None:
    server = Server(down)

    async def calls() -> None:
        pace = Pace()
        async with asyncio.TaskGroup() as group:
            for _ in range(200):
                group.create_task(pace.run(server))

    with pytest.raises(ExceptionGroup) as caught:
        swiftly(calls())
    assert any(isinstance(error, BudgetSpent) for error in caught.value.exceptions)
    assert len(server.began) < 60


def test_calls_that_had_no_time_are_not_held_against_the_server() -> None:
    slow, pace = Server(takes=3600.0), Pace(concurrency=1)

    async def calls() -> list[Reply | CallFailed]:
        busy = asyncio.create_task(pace.run(slow))
        outcomes = await asyncio.gather(*(pace.run(slow, deadline=now() + 1) for _ in range(100)))
        await busy
        return [outcome for outcome, _ in outcomes]

    assert all(isinstance(outcome, Late) for outcome in swiftly(calls()))


def test_what_is_no_failed_call_passes_through() -> None:
    async def broken() -> Reply:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        swiftly(Pace().run(broken))


@pytest.mark.parametrize(
    "options",
    [{"concurrency": 0}, {"attempts": 0}, {"breaker": 0}, {"budget": 0.0}, {"budget": 1.1}, {"pause_s": -1.0},
     {"requests_per_s": 0.0}, {"tokens_per_min": -5.0}],
)  # fmt: skip
def test_a_pace_at_which_nothing_happens_is_refused(options: dict[str, float]) -> None:
    with pytest.raises(BadInput):
        Pace(**options)
