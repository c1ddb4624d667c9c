"""An error that a worker hands over is freed with its frames, and what these have, at once."""

from __future__ import annotations

import gc
import weakref

from hvdrivers.workers import Job


class Held:
    """What a frame has: an object of a host, whose end may be a call of it."""


def test_an_error_needs_no_garbage_collection() -> None:
    held: list[weakref.ref[Held]] = []

    def call() -> None:
        mine = Held()
        held.append(weakref.ref(mine))
        raise KeyError(mine is None)

    def wait() -> str:
        job = Job(call)
        job.run()()
        future = job.future
        del job
        try:
            future.result()
        except KeyError:
            return "raised"
        finally:
            del future
        return "nothing"

    gc.disable()
    try:
        assert wait() == "raised"
        assert held[0]() is None
    finally:
        gc.enable()
