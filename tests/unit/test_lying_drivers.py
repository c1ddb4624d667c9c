"""A driver that lies: whatever it returns or raises, the caller gets a typed error."""

from __future__ import annotations

import copy
import math
import pickle
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest
from handmade import make

from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability, provides
from hvdrivers.contract.events import EventStream
from hvdrivers.models.events import Event, LifecycleEvent, LifecycleKind
from hvdrivers.models.instance import Firmware, Flavor, InstanceInfo
from hvdrivers.models.state import InstanceState
from hvdrivers.models.vif import AttachedVif, NetworkVif


def info(uuid: UUID, **fields: Any) -> InstanceInfo:
    """What get_instance() may return; ``fields`` as a driver may put them in, unchecked."""
    whole = InstanceInfo(
        uuid=uuid,
        name="x",
        state=InstanceState.RUNNING,
        flavor=Flavor(vcpus=1, memory_mib=64),
        firmware=Firmware.BIOS,
    )
    return whole.model_copy(update=fields)


# results ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"state": "running"}, "InstanceInfo.state"),
        ({"name": None}, "InstanceInfo.name"),
        ({"volumes": (1,)}, "InstanceInfo.volumes.0"),
        ({"created_at": datetime(2026, 1, 1)}, "InstanceInfo.created_at"),
        ({"flavor": Flavor.model_construct(vcpus="2", memory_mib=64)}, "Flavor.vcpus"),
        ({"flavor": Flavor.model_construct(vcpus=2)}, "Flavor.memory_mib"),
    ],
)
def test_a_model_that_was_made_unchecked_is_checked(fields, place) -> None:
    driver, _ = make(get_instance=lambda self, uuid, *, timeout=None: info(uuid, **fields))
    with pytest.raises(errors.ContractViolation, match=place):
        driver.get_instance(uuid4())


def test_a_value_out_of_bounds_is_what_the_host_shows() -> None:
    """Somebody gave the machine 8 MiB of memory by hand: it is shown, and no fault of a driver."""
    small = Flavor(vcpus=1, memory_mib=64).model_copy(update={"memory_mib": 8})
    driver, _ = make(get_instance=lambda self, uuid, *, timeout=None: info(uuid, flavor=small))
    assert driver.get_instance(uuid4()).flavor.memory_mib == 8


def test_a_list_is_looked_into() -> None:
    line = info(uuid4()).summary().model_copy(update={"vcpus": "1"})
    driver, _ = make(list_instances=lambda self, *, timeout=None: [line])
    with pytest.raises(errors.ContractViolation, match=r"InstanceSummary\.vcpus"):
        driver.list_instances()


def test_a_result_about_another_instance_is_refused() -> None:
    driver, _ = make(get_instance=lambda self, uuid, *, timeout=None: info(UUID(int=7)))
    with pytest.raises(errors.ContractViolation, match="000000000007, and not of"):
        driver.get_instance(uuid4())


def test_a_result_about_another_device_is_refused() -> None:
    @provides(Capability.VIF_NETWORK)
    def plug_vif(self, uuid, vif, *, timeout=None):
        return AttachedVif(id="eth9", address=vif.mac, type="network")

    driver, _ = make(plug_vif=plug_vif)
    with pytest.raises(errors.ContractViolation, match="eth9, and not of eth0"):
        driver.plug_vif(uuid4(), NetworkVif(id="eth0", network="default"))


# errors -------------------------------------------------------------------------------------------


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class Hollow(errors.InstanceNotFound):
    def __init__(self) -> None:
        """Without the base's."""


@pytest.mark.parametrize(
    "error",
    [
        Mute(),
        Hollow(),
        errors.DeviceBusy(b"\xff"),  # type: ignore[arg-type]
        errors.DeviceBusy(None),  # type: ignore[arg-type]
        errors.DeviceBusy("busy", hint=5),  # type: ignore[arg-type]
        errors.DeviceBusy("busy", vendor_code=5),  # type: ignore[arg-type]
        errors.DeviceBusy("busy", retryable="no"),  # type: ignore[arg-type]
    ],
    ids=lambda each: type(each).__name__,
)
def test_an_error_that_is_made_badly_is_the_drivers_fault(error) -> None:
    def ping(self, *, timeout=None):
        raise error

    driver, _ = make(ping=ping)
    with pytest.raises(errors.ContractViolation, match=type(error).__name__) as caught:
        driver.ping()
    assert caught.value.__cause__ is error
    assert caught.value.operation == "ping"
    assert str(caught.value)


def test_a_model_that_refuses_what_a_driver_gives_it_says_which_field() -> None:
    def host(self, *, timeout=None):
        return info(uuid4()).summary().__class__(name="x", secret="hidden away")

    driver, _ = make(host=host)
    with pytest.raises(errors.ContractViolation) as caught:
        driver.host()
    words = str(caught.value)
    assert "InstanceSummary: uuid: Field required" in words
    assert "https://" not in words
    assert "hidden away" not in words


def test_host_checks_raise_typed_errors_too() -> None:
    def fails(self, *, timeout=None):
        raise KeyError("x")

    for twist in (fails, lambda self, *, timeout=None: [1], lambda self, *, timeout=None: None):
        driver, _ = make(host_checks=twist)
        with pytest.raises(errors.ContractViolation, match="host_checks"):
            driver.host_checks()


# streams ------------------------------------------------------------------------------------------


class Stream(EventStream):
    """Gives, or raises, one thing."""

    def __init__(self, gives: object) -> None:
        self.gives = gives
        self.waited: list[float | None] = []

    def next(self, timeout: float | None = None) -> Event | None:
        self.waited.append(timeout)
        if isinstance(self.gives, BaseException):
            raise self.gives
        return self.gives  # type: ignore[return-value]

    def close(self) -> None:
        if isinstance(self.gives, BaseException):
            raise self.gives

    @property
    def closed(self) -> bool:
        return False


EVENT = LifecycleEvent(
    sequence=1,
    at=datetime.now(UTC),
    uuid=UUID(int=1),
    kind=LifecycleKind.STARTED,
    state=InstanceState.RUNNING,
)


def watching(gives: object) -> tuple[EventStream, Stream]:
    stream = Stream(gives)
    driver, _ = make(watch=lambda self, *, timeout=None: stream)
    return driver.watch(), stream


@pytest.mark.parametrize("gives", [EVENT, None])
def test_a_stream_gives_what_the_driver_says(gives) -> None:
    stream, behind = watching(gives)
    assert stream.next(timeout=3) is gives
    assert behind.waited == [3]
    assert not stream.closed
    stream.close()


@pytest.mark.parametrize(
    "gives",
    [5, {"type": "lifecycle"}, EVENT.model_copy(update={"state": "running"}), KeyError("raw")],
    ids=["number", "dictionary", "unchecked", "raised"],
)
def test_a_lying_stream_is_the_drivers_fault(gives) -> None:
    stream, _ = watching(gives)
    with pytest.raises(errors.ContractViolation, match=r"the stream of watch\(\)") as caught:
        stream.next(timeout=1)
    assert caught.value.operation == "watch"
    assert caught.value.host


def test_a_stream_that_does_not_close_is_the_drivers_fault() -> None:
    with pytest.raises(errors.ContractViolation, match=r"close\(\)"):
        watching(KeyError("raw"))[0].close()


def test_an_error_of_the_tree_comes_out_of_a_stream_completed() -> None:
    stream, _ = watching(errors.ConnectionFailed("gone"))
    with pytest.raises(errors.ConnectionFailed) as caught:
        stream.next()
    assert caught.value.operation == "watch"


def test_an_interrupt_of_the_consumer_passes() -> None:
    with pytest.raises(KeyboardInterrupt):
        watching(KeyboardInterrupt())[0].next()


@pytest.mark.parametrize("timeout", ["1", True, math.nan])
def test_a_wait_that_is_no_number_is_refused(timeout) -> None:
    stream, behind = watching(EVENT)
    with pytest.raises(errors.InvalidRequest, match="timeout"):
        stream.next(timeout=timeout)
    assert not behind.waited


# processes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("duplicate", [pickle.dumps, copy.copy, copy.deepcopy])
def test_neither_a_driver_nor_a_stream_goes_to_another_process(duplicate) -> None:
    driver, _ = make()
    with pytest.raises(TypeError, match=r"connect\(\) in each process"):
        duplicate(driver)
    with pytest.raises(TypeError, match=r"watch\(\) in each process"):
        duplicate(driver.watch())


def test_a_stream_is_of_the_process_that_has_opened_it(monkeypatch) -> None:
    stream, behind = watching(EVENT)
    monkeypatch.setattr("os.getpid", lambda: -1)
    with pytest.raises(errors.ConnectionFailed, match="forked") as caught:
        stream.next(timeout=1)
    assert not caught.value.retryable
    assert not behind.waited
