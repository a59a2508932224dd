"""Pillow's limit and warnings are lifted while an image is prepared, and as before afterwards."""

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
    """Whether Pillow opens an image above its limit."""
    try:
        Image.open(io.BytesIO(LARGE))
    except Image.DecompressionBombError:
        return False
    return True


def test_both_are_as_before() -> None:
    """They belong to the process: other code in it relies on them."""
    filters = list(warnings.filters)
    assert prepare(LARGE).width == 40
    with as_bad_image(), as_bad_image():
        assert opens()
    with pytest.raises(BadImage), as_bad_image():
        Image.open(io.BytesIO(b"neither"))
    assert list(warnings.filters) == filters
    assert not opens()


def test_a_filter_of_the_users_own_stays() -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")
        filters = list(warnings.filters)
        prepare(LARGE)
        assert list(warnings.filters) == filters


def test_filters_that_change_meanwhile_are_kept() -> None:
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
def test_a_forked_process_forgets_threads_that_it_does_not_have(in_block: bool) -> None:
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
    """Exit code of a forked process: 0 if the check holds in it."""
    process = os.fork()
    if process == 0:
        os._exit(0 if check() else 1)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
