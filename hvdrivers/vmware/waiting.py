"""Waits for a property of an object to have a value, told by the server."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from pyVmomi import vmodl

from hvdrivers.contract import errors
from hvdrivers.driverkit import Deadline
from hvdrivers.vmware.deadline import unbounded
from hvdrivers.vmware.errors import translate
from hvdrivers.vmware.reader import Reader, filter_spec
from hvdrivers.vmware.session import Session, by_chance

_PC = vmodl.query.PropertyCollector
_MOMENT = 0.03
SLICE = 10
"""Seconds of one wait: the server answers then, so that a deadline is seen."""


@contextmanager
def collector_of(session: Session, spec: Any) -> Iterator[Any]:
    """A property collector of its own with one filter; it is destroyed at the end. Waits of
    several threads in one collector would take each other's news."""
    collector = session.content.propertyCollector.CreatePropertyCollector()
    try:
        collector.CreateFilter(spec, False)
        yield collector
    finally:
        with suppress(errors.HypervisorError), unbounded():
            collector.DestroyPropertyCollector()


def options(deadline: Deadline, longest: int = SLICE) -> Any:
    """Options for one wait."""
    return _PC.WaitOptions(maxWaitSeconds=max(1, int(deadline.within(longest))))


def news(
    collector: Any, version: str, deadline: Deadline, *, longest: int = SLICE, beside: Any = None
) -> tuple[str, dict[str, Any]] | None:
    """One wait: the version after it and what has changed. None: the answer was lost, so look.

    Args:
        longest: seconds.
        beside: an object that may go meanwhile.
    """
    wait = options(deadline, longest)
    try:
        if deadline.left < 1:
            # the server counts in whole seconds: within the last one it is asked again and again
            wait.maxWaitSeconds = 0
            threading.Event().wait(deadline.within(_MOMENT))
        update = collector.WaitForUpdatesEx(version, wait)
    except errors.OutcomeUnknown:
        return None
    return (version, {}) if update is None else (update.version, dict(changes(update, beside)))


def changes(update: Any, beside: Any = None) -> Iterator[tuple[str, Any]]:
    """Paths and values of an update.

    Raises:
        HypervisorFault: the object has gone, so nothing of it will change.
    """
    for each in update.filterSet or ():
        gone = [miss.obj for miss in each.missingSet or ()]
        gone += [changed.obj for changed in each.objectSet or () if changed.kind == "leave"]
        for obj in gone:
            if obj == beside:
                continue
            fault = vmodl.fault.ManagedObjectNotFound(obj=obj)
            raise translate(fault) from fault
        for changed in each.objectSet or ():
            for change in changed.changeSet or ():
                yield change.name, change.val


def wait_for(
    reader: Reader, obj: Any, path: str, wanted: Callable[[Any], bool], deadline: Deadline
) -> bool:
    """Wait until a property is as wanted; False if it was not before the deadline."""
    spec = filter_spec([(type(obj), [path])], [(obj, [])])
    with collector_of(reader.session, spec) as collector:
        version = ""
        while not deadline.passed:
            told = news(collector, version, deadline)
            if told is None:
                told = version, dict(reader.one(obj, path).values)
            version = told[0]
            if path in told[1] and wanted(told[1][path]):
                return True
    return False


def wait_for_change(reader: Reader, obj: Any, path: str, deadline: Deadline) -> None:
    """Wait until a property changes, or the deadline passes."""
    spec = filter_spec([(type(obj), [path])], [(obj, [])])
    with by_chance(), collector_of(reader.session, spec) as collector:
        told = news(collector, "", deadline)  # what it is now
        while told is not None and not deadline.passed:
            told = news(collector, told[0], deadline)
            if told is not None and told[1]:
                return
