"""Child processes for the tests that kill, and for those that let two processes race.

They come from a fork server that has everything imported and no thread: a child is there in some
20 ms, and libvirt's event loop is its own.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from multiprocessing.connection import Connection as Pipe
from typing import Any

from hvdrivers.contract import errors
from hvdrivers.libvirt.config import LibvirtConfig
from hvdrivers.libvirt.driver import LibvirtDriver
from hvdrivers.libvirt.remote import changes_nothing
from hvdrivers.models.image import ImageRef
from hvdrivers.models.instance import InstanceSpec

context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload([__name__])


def driver_on(uri: str) -> LibvirtDriver:
    return LibvirtDriver.connect(LibvirtConfig(uri=uri, virt_type="qemu"))


def in_order(uri: str) -> LibvirtDriver:
    """A driver that makes one call after another, so that each has its number."""
    driver = driver_on(uri)
    driver.connection.links.spare = lambda: None  # type: ignore[method-assign]
    return driver


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class _Killer:
    """A seam in which the process dies at one call: before it, after it, or while it runs.

    Args:
        reads: whether calls that change nothing count. How many of them there are may depend on
            how long something takes.
    """

    def __init__(self, at: int, when: str, pipe: Pipe, *, reads: bool) -> None:
        self._at, self._when, self._pipe, self._reads = at, when, pipe, reads
        self._number = 0

    def __call__(self, name: str, send: Any) -> Any:
        if not self._reads and changes_nothing(name.partition(".")[2]):
            return send()
        number, self._number = self._number, self._number + 1
        if number != self._at:
            return send()
        self._pipe.send(name)
        if self._when == "before":
            _die()
        try:
            return send()  # the parent kills "during" when it has read the name
        finally:  # the answer may be an error
            if self._when == "after":
                _die()
            signal.pause()


def _begin_and_die(
    uri: str,
    operation: str,
    arguments: tuple[Any, ...],
    at: int,
    when: str,
    pipe: Pipe,
    reads: bool,
    keywords: dict[str, Any],
) -> None:
    driver = in_order(uri)
    driver.connection.seam = _Killer(at, when, pipe, reads=reads)
    getattr(driver, operation)(*arguments, **keywords)
    pipe.send("")


def _spawn_and_tell(uri: str, spec: InstanceSpec, pipe: Pipe) -> None:
    driver = in_order(uri)
    names: list[str] = []

    def note(name: str, send: Any) -> Any:
        names.append(name)
        return send()

    driver.connection.seam = note
    driver.spawn(spec)
    driver.connection.seam = None
    driver.destroy(spec.uuid)
    pipe.send(names)


def calls_of_spawn(uri: str, spec: InstanceSpec) -> list[str]:
    """The calls that spawn makes in a new process; the machine is destroyed."""
    ours, theirs = context.Pipe()
    child = context.Process(target=_spawn_and_tell, args=(uri, spec, theirs))
    child.start()
    theirs.close()
    names: list[str] = ours.recv()
    child.join(60)
    ours.close()
    return names


def killed_at(uri: str, spec: InstanceSpec, at: int, when: str) -> str | None:
    """Spawn in a child that is killed at a call; its name, or None if spawn came to its end."""
    return killed_in(uri, "spawn", (spec,), at, when)


def killed_in(
    uri: str,
    operation: str,
    arguments: tuple[Any, ...],
    at: int,
    when: str,
    *,
    reads: bool = True,
    keywords: dict[str, Any] | None = None,
) -> str | None:
    """The same for any operation.

    Args:
        reads: whether calls that change nothing are counted.
        keywords: of the operation.
    """
    ours, theirs = context.Pipe()
    child = context.Process(
        target=_begin_and_die,
        args=(uri, operation, arguments, at, when, theirs, reads, keywords or {}),
    )
    child.start()
    theirs.close()
    try:
        name: str = ours.recv()
        if when == "during" and name:
            child.kill()
        child.join(60)
    finally:
        ours.close()
    assert child.exitcode == (-signal.SIGKILL if name else 0), child.exitcode
    return name or None


def _spawn_one(uri: str, spec: InstanceSpec, gate: Any, pipe: Pipe) -> None:
    driver = driver_on(uri)
    gate.wait(300)
    try:
        driver.spawn(spec)
        pipe.send("spawned")
    except errors.HypervisorError as error:
        pipe.send(type(error).__name__)
    driver.close()


def _cache_one(uri: str, image: ImageRef, gate: Any, pipe: Pipe) -> None:
    driver = driver_on(uri)
    gate.wait(300)
    try:
        pipe.send(driver.cache_image(image).key)
    except errors.HypervisorError as error:
        pipe.send(repr(error))
    driver.close()


def _race(target: Any, uri: str, arguments: list[Any]) -> list[str]:
    gate = context.Barrier(len(arguments))
    runs = []
    for each in arguments:
        ours, theirs = context.Pipe()
        child = context.Process(target=target, args=(uri, each, gate, theirs))
        child.start()
        theirs.close()
        runs.append((child, ours))
    results = []
    for child, ours in runs:
        results.append(ours.recv())
        child.join(60)
        assert child.exitcode == 0
        ours.close()
    return results


def race_to_spawn(uri: str, specs: list[InstanceSpec]) -> list[str]:
    """Spawn in as many processes at the same moment: ``spawned``, or the name of the error."""
    return _race(_spawn_one, uri, list(specs))


def race_to_cache(uri: str, image: ImageRef, processes: int) -> list[str]:
    """Cache an image in as many processes at the same moment: the keys, or what was raised."""
    return _race(_cache_one, uri, [image] * processes)


class Held:
    """An operation in a process of its own that stands still before one of its calls."""

    def __init__(self, uri: str, operation: str, arguments: tuple[Any, ...], at: int) -> None:
        self._ours, theirs = context.Pipe()
        self._child = context.Process(
            target=_stand_still, args=(uri, operation, arguments, at, theirs)
        )
        self._child.start()
        theirs.close()
        self.name: str | None = self._ours.recv()
        """The call; None if the operation came to its end before it."""
        self.calls: list[str] = []
        """All its calls, when it has come to its end."""

    def go_on(self) -> str:
        """Let it go on to its end: ``done``, or the name of the error."""
        if self.name is not None:
            self._ours.send(None)
        result, self.calls = self._ours.recv()
        self._child.join(60)
        assert self._child.exitcode == 0, self._child.exitcode
        self._ours.close()
        return str(result)


def _stand_still(uri: str, operation: str, arguments: tuple[Any, ...], at: int, pipe: Pipe) -> None:
    driver = in_order(uri)
    made: list[str] = []

    def seam(name: str, send: Any) -> Any:
        made.append(name)
        if len(made) - 1 == at:
            pipe.send(name)
            pipe.recv()
        return send()

    driver.connection.seam = seam
    result = _outcome_of(driver, operation, arguments)
    if not 0 <= at < len(made):
        pipe.send(None)
    pipe.send((result, made))
    driver.connection.seam = None
    driver.close()


def _outcome_of(driver: LibvirtDriver, operation: str, arguments: tuple[Any, ...]) -> str:
    try:
        getattr(driver, operation)(*arguments)
    except errors.HypervisorError as error:
        return type(error).__name__
    return "done"


def _do_one(uri: str, what: tuple[str, tuple[Any, ...]], gate: Any, pipe: Pipe) -> None:
    driver = driver_on(uri)
    driver.hub.ensure()
    gate.wait(300)
    pipe.send(_outcome_of(driver, *what))
    driver.close()


def race_to_do(uri: str, operations: list[tuple[str, tuple[Any, ...]]]) -> list[str]:
    """Do each in a process of its own at the same moment: ``done``, or the name of the error."""
    return _race(_do_one, uri, list(operations))
