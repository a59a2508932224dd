"""Tests that Pillow's pixel limit and warnings are off during `prepare`, and restored afterwards."""

from __future__ import annotations

import io
import os
import threading
import warnings
from collections.abc import Callable

import pytest
from image_sources import image
from PIL import Image

from tfrecord_tools.images import prepare
from tfrecord_tools.images.pillow import unlimited
from tfrecord_tools.images.preparation import BadImage, as_bad_image


@pytest.fixture(autouse=True)
def small_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)


LARGE = image(1, size=(40, 30))


def opens() -> bool:
    """Return whether Pillow opens an image above its limit."""
    try:
        Image.open(io.BytesIO(LARGE))
    except Image.DecompressionBombError:
        return False
    return True


def test_limit_and_warnings_are_restored() -> None:
    """They belong to the whole process, and other code relies on them."""
    filters = list(warnings.filters)
    assert prepare(LARGE).width == 40
    with as_bad_image(), as_bad_image():
        assert opens()
    with pytest.raises(BadImage), as_bad_image():
        Image.open(io.BytesIO(b"neither"))
    assert list(warnings.filters) == filters
    assert not opens()


def test_a_filter_of_the_user_is_kept() -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")
        filters = list(warnings.filters)
        prepare(LARGE)
        assert list(warnings.filters) == filters


def test_filters_that_change_during_the_block_are_kept() -> None:
    with warnings.catch_warnings():
        with unlimited():
            warnings.filterwarnings("error", module="other")
            added = warnings.filters[0]
        assert added in warnings.filters
        with unlimited():
            warnings.resetwarnings()
        assert list(warnings.filters) == []


def test_the_last_thread_that_leaves_restores_the_limit() -> None:
    entered, leave = threading.Event(), threading.Event()

    def other() -> None:
        with unlimited():
            entered.set()
            leave.wait()

    thread = threading.Thread(target=other)
    with unlimited():
        thread.start()
        entered.wait()
    assert opens()
    leave.set()
    thread.join()
    assert not opens()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="only Unix has fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("in_block", [False, True])
def test_a_forked_process_forgets_other_threads(in_block: bool) -> None:
    entered, leave = threading.Event(), threading.Event()

    def other() -> None:
        with unlimited():
            entered.set()
            leave.wait()

    thread = threading.Thread(target=other)
    thread.start()
    entered.wait()
    if in_block:
        with unlimited():
            child = forked(opens)
    else:
        child = forked(lambda: not opens() and prepare(LARGE).width == 40 and not opens())
    leave.set()
    thread.join()
    assert child == 0


def forked(check: Callable[[], bool]) -> int:
    """Return the exit code of a forked process: 0 if the check is true in it."""
    process = os.fork()
    if process == 0:
        os._exit(0 if check() else 1)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
