"""Loading with transformers, which keeps its bars and its log for the whole process."""

from __future__ import annotations

import io
import logging
import threading
from collections.abc import Callable, Iterator

import pytest

from lookalike import hubs

pytest.importorskip("transformers")

from transformers.utils import logging as output


@pytest.fixture
def hook() -> Iterator[object]:
    """A hook of someone else's for the bars, there before and after."""

    def theirs(make: object, args: object, options: object) -> str:
        return "their bar"

    before = output.set_tqdm_hook(theirs)
    yield theirs
    output.set_tqdm_hook(before)


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """What transformers has logged so far."""
    logger, written = logging.getLogger("transformers"), io.StringIO()
    handler = logging.StreamHandler(written)
    logger.addHandler(handler)
    yield written
    logger.removeHandler(handler)


def elsewhere(run: Callable[[], None]) -> None:
    thread = threading.Thread(target=run, name="elsewhere")
    thread.start()
    thread.join()


def test_this_thread_alone_is_quiet(log: io.StringIO, capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        name = threading.current_thread().name
        logging.getLogger("transformers.models").error("logged by %s", name)
        output.tqdm([1], desc=f"drawn by {name}").close()

    capsys.readouterr()
    with hubs.loading():
        work()
        assert log.getvalue() + capsys.readouterr().err == ""
        elsewhere(work)
        assert log.getvalue() == "logged by elsewhere\n"
        assert "drawn by elsewhere" in capsys.readouterr().err
    work()
    assert log.getvalue().endswith("logged by MainThread\n")
    assert "drawn by MainThread" in capsys.readouterr().err


def test_all_is_as_it_was_also_after_an_error(hook: object) -> None:
    with pytest.raises(ZeroDivisionError), hubs.loading():
        assert not isinstance(output.tqdm([1]), str)
        _ = 1 / 0
    assert output.tqdm([1]) == "their bar"
    assert not any(handler.filters for handler in logging.getLogger("transformers").handlers)
    with hubs.loading():
        """The lock was let go of."""


def test_those_who_load_wait_for_each_other(hook: object) -> None:
    """Were two within, the first to leave would put back its hook, and the last the first one's."""
    within = threading.Event()

    def load() -> None:
        with hubs.loading():
            within.set()

    other = threading.Thread(target=load)
    with hubs.loading():
        other.start()
        assert not within.wait(0.1)
    other.join()
    assert within.is_set()
    assert output.tqdm([1]) == "their bar"


def test_an_error_is_told_by_its_first_line_or_its_kind() -> None:
    assert hubs.first_line(ValueError("\n  no such file\nadvice\n")) == "no such file"
    assert hubs.first_line(ValueError()) == "ValueError"
