"""A request that the host takes long for, and what it tells of its progress meanwhile."""

from __future__ import annotations

import contextvars
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from contextlib import suppress
from typing import Final

from hvdrivers.contract import errors
from hvdrivers.models.progress import Phase, Progress, ProgressCallback

_LOOKS_APART: Final = 0.5
"""Seconds between two looks."""


def watched(
    work: Callable[[], None],
    progress: ProgressCallback,
    phase: Phase,
    *,
    percent: Callable[[], int | None],
    end: Callable[[], None],
) -> None:
    """Do it in a thread of its own, and call ``progress`` from this one.

    Args:
        percent: how much is done; None if the host does not say.
        end: makes ``work`` end soon. It is called, again if need be, when ``progress`` raises.
    """
    with ThreadPoolExecutor(1, "hvdrivers-hyperv-move") as pool:
        working = pool.submit(contextvars.copy_context().run, work)
        try:
            _tell(working, progress, phase, percent)
        except BaseException:
            while not working.done():
                with suppress(errors.HypervisorError):
                    end()
                wait_for([working], _LOOKS_APART)
            raise
        working.result()


def _tell(
    working: Future[None],
    progress: ProgressCallback,
    phase: Phase,
    percent: Callable[[], int | None],
) -> None:
    done = 0
    while not wait_for([working], _LOOKS_APART).done:
        with suppress(errors.HypervisorError):  # what came of it the work itself says
            done = max(done, percent() or 0)
        progress(Progress(phase=phase, done=done, total=100, unit="percent"))
