"""The guard keeps its promises in front of any driver, well-behaved or not."""

from __future__ import annotations

import asyncio
import contextvars
import errno
import gc
import inspect
import logging
import os
import pickle
import threading
import traceback
import warnings
from uuid import UUID, uuid4

import pytest
from handmade import PATIENCE, LeastDriver, a_spec, in_thread, make, spawned
from pydantic import SecretStr

from hvdrivers import guard as guard_module
from hvdrivers import guarded_call
from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability, provides
from hvdrivers.contract.driver import OPERATIONS, ComputeDriver
from hvdrivers.contract.guest import GuestExec, GuestPassword
from hvdrivers.contract.power import Pause, RebootKind
from hvdrivers.contract.snapshots import Snapshots
from hvdrivers.contract.storage import Reconnect
from hvdrivers.guard import asynchronous
from hvdrivers.models.console import ConsoleKind
from hvdrivers.models.guest import ExecResult
from hvdrivers.models.image import HostImage
from hvdrivers.models.instance import Firmware, InstanceSummary
from hvdrivers.models.progress import Phase, Progress
from hvdrivers.models.state import InstanceState
from hvdrivers.models.vif import NetworkVif
from hvdrivers.workers import leaving

HALF = Progress(phase=Phase.UPLOAD, done=1, total=2)


class Pausing(LeastDriver, Pause):
    """The least driver with an optional interface."""

    def pause(self, uuid, *, timeout=None):
        self._change("pause", uuid)

    def unpause(self, uuid, *, timeout=None):
        self._change("unpause", uuid)


def never(*_args, **_kwargs):
    raise AssertionError("the driver was called")


# 1. capabilities ------------------------------------------------------------------------------


def test_every_operation_of_the_contract_is_there() -> None:
    driver, _ = make()
    assert isinstance(driver, ComputeDriver)
    for name in OPERATIONS:
        contract = getattr(ComputeDriver, name)
        assert inspect.signature(getattr(type(driver), name)) == inspect.signature(contract)
        assert getattr(driver, name).__doc__ == contract.__doc__


def test_an_operation_that_is_not_there_is_refused_with_its_reason() -> None:
    driver, _ = make()
    with pytest.raises(errors.NotSupported, match="no pause: the") as caught:
        driver.pause(uuid4())
    assert caught.value.message == driver.why_not(Capability.PAUSE)
    assert caught.value.operation == "pause"
    assert caught.value.host == driver.host_label
    with pytest.raises(errors.NotSupported, match=r"no get_console\(\)"):
        driver.get_console(uuid4(), ConsoleKind.VNC)


def test_one_that_this_host_has_not_is_refused_before_the_driver_is_called() -> None:
    driver, _ = make(
        like=Pausing, pause=never, narrowed=lambda self: {Capability.PAUSE: "the host is too old"}
    )
    with pytest.raises(errors.NotSupported, match="the host is too old"):
        driver.pause(uuid4())
    assert Capability.PAUSE not in driver.capabilities
    assert driver.why_not(Capability.PAUSE) == "the host is too old"
    assert driver.why_not(Capability.IMAGE_HOST) is None


def test_narrowing_cannot_widen() -> None:
    driver, _ = make(narrowed=lambda self: {Capability.UEFI: "no firmware"})
    assert driver.narrowed() == {}
    assert driver.why_not(Capability.UEFI) == (
        "no uefi: the twisted driver does not offer it; instead: use an image that boots by BIOS,"
        " or choose another host"
    )


def test_a_capability_without_its_operation_is_refused_all_the_same() -> None:
    def odd(self):
        pass

    from hvdrivers.contract.capabilities import provides

    driver, _ = make(odd=provides(Capability.PAUSE)(odd))
    with pytest.raises(errors.NotSupported, match=r"no pause\(\)"):
        driver.pause(uuid4())


@pytest.mark.parametrize(
    ("fields", "capability"),
    [
        ({"firmware": Firmware.UEFI}, "uefi"),
        ({"image": HostImage(name="t", format="qcow2")}, "image-qcow2"),
        ({"vtpm": True}, "vtpm"),
    ],
)
def test_what_the_arguments_need_is_refused_before_the_driver_is_called(fields, capability) -> None:
    driver, _ = make(spawn=never)
    with pytest.raises(errors.NotSupported, match=capability):
        driver.spawn(a_spec(**fields))


def test_a_refused_operation_does_not_wait_for_the_instance() -> None:
    driver, _ = make()
    driver._locks.acquire(uuid := uuid4(), 1)
    with pytest.raises(errors.NotSupported):
        driver.pause(uuid, timeout=1000)


# 2. arguments ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda d: d.get_instance("not a uuid"), "uuid: Input should be"),
        (lambda d: d.get_instance(str(uuid4())), "uuid: Input should be"),
        (lambda d: d.spawn({"name": "x"}), "spec: "),
        (lambda d: d.spawn(a_spec().model_dump()), "spec: dict is not what"),
        (lambda d: d.rename(uuid4(), "x" * 64), "name: "),
        (lambda d: d.rename(uuid4(), "a\nb"), "name: "),
        (lambda d: d.reboot(uuid4(), "soft"), "kind: "),
        (lambda d: d.power_off(uuid4(), graceful=-1), "graceful: "),
        (lambda d: d.power_off(uuid4(), graceful="1"), "graceful: "),
        (lambda d: d.power_off(uuid4(), graceful=float("nan")), "graceful: "),
        (lambda d: d.set_metadata(uuid4(), {"a b": "c"}), "metadata"),
        (lambda d: d.get_metrics([uuid4()]), "uuids: "),
        (lambda d: d.spawn(a_spec(), progress="no function"), "progress: "),
        (lambda d: d.ping(timeout=0), "more than 0"),
        (lambda d: d.ping(timeout=-1), "more than 0"),
        (lambda d: d.ping(timeout=float("inf")), "finite"),
        (lambda d: d.ping(timeout=float("nan")), "finite"),
        (lambda d: d.ping(timeout="1"), "number"),
        (lambda d: d.ping(timeout=True), "number"),
    ],
)
def test_a_wrong_argument_is_refused_before_the_driver_is_called(call, message) -> None:
    driver, _ = make(**dict.fromkeys(LeastDriver.__abstractmethods__ or (), never))
    with pytest.raises(errors.InvalidRequest, match=message) as caught:
        call(driver)
    assert caught.value.operation


class Reconnecting(LeastDriver, Reconnect):
    """Remembers what it was given."""

    @provides(Capability.VIF_NETWORK)
    def reconnect(self, uuid, *, volumes=(), vifs=(), timeout=None):
        self.given = volumes, vifs


def test_a_list_is_taken_and_a_driver_gets_a_tuple() -> None:
    """Its caller may change a list while the driver works."""
    driver, behind = make(like=Reconnecting)
    nic = NetworkVif(id="eth0", network="default")
    driver.reconnect(uuid4(), volumes=[], vifs=[nic])
    assert behind.given == ((), (nic,))
    with pytest.raises(errors.InvalidRequest, match="named twice"):
        driver.reconnect(uuid4(), vifs=[nic, nic])


def test_a_call_that_python_would_refuse_is_a_type_error() -> None:
    driver, _ = make()
    with pytest.raises(TypeError, match=r"get_instance\(\) missing a required argument: 'uuid'"):
        driver.get_instance()
    with pytest.raises(TypeError, match="unexpected keyword"):
        driver.ping(tiemout=1)
    with pytest.raises(TypeError, match="too many positional"):
        driver.ping(1)


def test_the_driver_gets_all_arguments_by_name_and_the_seconds_that_are_left() -> None:
    seen = {}

    def reboot(self, uuid, kind=RebootKind.SOFT, *, timeout=None):
        seen.update(uuid=uuid, kind=kind, timeout=timeout)

    driver, _ = make(reboot=reboot)
    uuid = uuid4()
    driver.reboot(uuid)
    assert (seen["uuid"], seen["kind"]) == (uuid, RebootKind.HARD)
    assert 0 < seen["timeout"] <= OPERATIONS["reboot"].timeout
    driver.reboot(uuid, RebootKind.SOFT, timeout=7)
    assert seen["kind"] is RebootKind.SOFT
    assert 0 < seen["timeout"] <= 7


def test_the_scale_is_for_default_timeouts_and_grace_comes_on_top() -> None:
    seen = []
    driver, _ = make(
        guard={"timeout_scale": 10},
        ping=lambda self, *, timeout=None: seen.append(timeout),
        power_off=lambda self, uuid, *, graceful=0, timeout=None: seen.append(timeout),
    )
    driver.ping()
    driver.ping(timeout=1)
    driver.power_off(uuid4(), graceful=5000)
    driver.ping(timeout=10**400)
    usual, given, graceful, longest = seen
    assert 10 < usual <= 100
    assert given <= 1
    assert 5000 < graceful <= 5000 + 10 * OPERATIONS["power_off"].timeout
    assert longest < threading.TIMEOUT_MAX


# 3. taking turns ------------------------------------------------------------------------------


def test_changes_of_one_instance_take_turns() -> None:
    inside, overlaps, entered = [], [], threading.Semaphore(0)

    def set_metadata(self, uuid, metadata, *, timeout=None):
        inside.append(uuid)
        overlaps.append(len(inside))
        entered.release()
        inside.remove(uuid)

    driver, _ = make(set_metadata=set_metadata)
    uuid = uuid4()
    start = threading.Barrier(8)

    def change():
        start.wait(PATIENCE)
        for _ in range(25):
            driver.set_metadata(uuid, {})

    threads = [in_thread(change) for _ in range(8)]
    for thread in threads:
        thread.join(PATIENCE)
    assert overlaps == [1] * 200
    assert len(driver._locks) == 0


def test_different_instances_and_reads_do_not_wait_for_each_other() -> None:
    together = threading.Barrier(6)

    def power_on(self, uuid, *, timeout=None):
        together.wait(PATIENCE)

    def get_instance(self, uuid, *, timeout=None):
        together.wait(PATIENCE)
        raise errors.InstanceNotFound("none")

    driver, _ = make(power_on=power_on, get_instance=get_instance)
    one = uuid4()
    failures = []

    def run(call):
        try:
            call()
        except errors.InstanceNotFound:
            pass
        except Exception as error:  # noqa: BLE001 - shown by the assertion below
            failures.append(error)

    calls = [lambda uuid=uuid: driver.power_on(uuid) for uuid in (one, uuid4(), uuid4())]
    calls += [lambda: driver.get_instance(one)] * 3
    threads = [in_thread(lambda call=call: run(call)) for call in calls]
    for thread in threads:
        thread.join(PATIENCE)
    assert not failures
    assert together.n_waiting == 0


class Executing(LeastDriver, GuestExec):
    """The least driver whose guests run programs."""

    def guest_exec(self, uuid, command, *, stdin=b"", credentials=None, timeout=None):
        raise NotImplementedError


def test_a_program_in_the_guest_keeps_nobody_from_the_instance() -> None:
    """Two programs run until the machine is off, and the instance is nobody's meanwhile."""
    together = threading.Barrier(3)
    off = threading.Event()

    def guest_exec(self, uuid, command, *, stdin=b"", credentials=None, timeout=None):
        together.wait(PATIENCE)
        assert off.wait(PATIENCE)
        return ExecResult(exit_code=0, stdout=b"", stderr=b"")

    driver, _ = make(
        like=Executing,
        guest_exec=guest_exec,
        power_off=lambda self, uuid, *, graceful=0, timeout=None: off.set(),
    )
    uuid = uuid4()
    found = []
    threads = [in_thread(lambda: found.append(driver.guest_exec(uuid, ["x"]))) for _ in range(2)]
    together.wait(PATIENCE)
    driver.power_off(uuid, timeout=PATIENCE)
    for thread in threads:
        thread.join(PATIENCE)
    assert [each.exit_code for each in found] == [0, 0]


def test_spawn_takes_turns_by_the_uuid_in_its_spec() -> None:
    driver, _ = make(spawn=never)
    spec = a_spec()
    driver._locks.acquire(spec.uuid, 1)
    with pytest.raises(errors.OperationTimeout, match="still under way; nothing was begun") as e:
        driver.spawn(spec, timeout=0.01)
    assert e.value.instance == spec.uuid


# 4. deadlines ---------------------------------------------------------------------------------


@pytest.fixture
def no_tolerance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard_module, "TOLERANCE", 0.01)


def hanging():
    """A method that hangs until it is released, and what releases it."""
    free, entered = threading.Event(), threading.Event()

    def hang(self, uuid=None, *, timeout=None, **_):
        entered.set()
        assert free.wait(PATIENCE)

    return hang, free, entered


def test_a_hung_change_is_unknown_and_keeps_its_instance_locked(no_tolerance) -> None:
    hang, free, _ = hanging()
    came = threading.Event()
    driver, _ = make(power_on=hang, power_off=lambda self, uuid, **_: came.set())
    uuid = uuid4()
    with pytest.raises(errors.OutcomeUnknown) as caught:
        driver.power_on(uuid, timeout=0.01)
    assert (caught.value.operation, caught.value.instance) == ("power_on", uuid)
    with pytest.raises(errors.OperationTimeout, match="nothing was begun"):
        driver.power_off(uuid, timeout=0.01)
    driver.power_off(uuid4())  # another one is free
    came.clear()
    free.set()
    driver.power_off(uuid, timeout=PATIENCE)  # and this one, once the driver has come back
    assert came.is_set()
    assert len(driver._locks) == 0


def test_a_hung_read_has_timed_out(no_tolerance) -> None:
    hang, free, _ = hanging()
    driver, _ = make(ping=hang)
    with pytest.raises(errors.OperationTimeout):
        driver.ping(timeout=0.01)
    free.set()


def leavable():
    """A read that hangs where it may be left at the deadline."""
    hang, free, _ = hanging()

    def ping(self, *, timeout=None):
        with leaving().at_deadline(lambda: "Host.answer"):
            hang(self)

    driver, _ = make(ping=ping)
    driver._tolerance = never
    return driver, free


def test_a_read_that_may_be_left_is_left_at_its_deadline() -> None:
    driver, free = leavable()
    with pytest.raises(errors.OperationTimeout, match=r"did not answer Host\.answer within"):
        driver.ping(timeout=0.01)
    free.set()


def test_a_coroutine_leaves_it_too() -> None:
    driver, free = leavable()
    with pytest.raises(errors.OperationTimeout, match=r"did not answer Host\.answer within"):
        asyncio.run(asynchronous(driver.ping)(timeout=0.01))
    free.set()


def test_only_the_thread_that_works_for_a_caller_may_be_left() -> None:
    found = []

    def ping(self, *, timeout=None):
        found.append(leaving() is not None)
        with_its_context = contextvars.copy_context()
        other = in_thread(lambda: found.append(with_its_context.run(leaving)))
        other.join(PATIENCE)

    driver, _ = make(ping=ping)
    driver.ping()
    assert found == [True, None]
    assert leaving() is None


def test_what_a_driver_takes_back_after_a_read_that_may_be_left_is_waited_for() -> None:
    def ping(self, *, timeout=None):
        with leaving().at_deadline(lambda: "Host.answer"):
            pass
        assert not threading.Event().wait(timeout)
        raise errors.OperationTimeout("undone")

    driver, _ = make(ping=ping)
    with pytest.raises(errors.OperationTimeout, match="undone"):
        driver.ping(timeout=0.01)


def test_a_driver_that_gives_up_within_the_tolerance_has_its_say() -> None:
    def power_on(self, uuid, *, timeout=None):
        assert not threading.Event().wait(timeout)
        raise errors.OperationTimeout("undone")

    driver, _ = make(power_on=power_on)
    with pytest.raises(errors.OperationTimeout, match="undone"):
        driver.power_on(uuid4(), timeout=0.01)


def test_a_stream_that_comes_too_late_is_closed(no_tolerance) -> None:
    free, made, closed = threading.Event(), [], threading.Event()

    def watch(self, *, timeout=None):
        free.wait(PATIENCE)
        stream = LeastDriver.watch(self)
        original = stream.close
        stream.close = lambda: (original(), closed.set())
        made.append(stream)
        return stream

    driver, _ = make(watch=watch)
    with pytest.raises(errors.OperationTimeout):
        driver.watch(timeout=0.01)
    free.set()
    assert closed.wait(PATIENCE)
    assert made[0].closed


def test_an_interrupted_caller_leaves_the_driver_to_itself(monkeypatch) -> None:
    hang, free, entered = hanging()
    driver, _ = make(power_on=hang)
    uuid = uuid4()

    def interrupted(*_):
        assert entered.wait(PATIENCE)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(guarded_call.futures.Future, "exception", interrupted)
        with pytest.raises(KeyboardInterrupt):
            driver.power_on(uuid)
    assert len(driver._locks) == 1
    with pytest.raises(errors.OperationTimeout, match="nothing was begun"):
        driver.power_off(uuid, timeout=0.01)
    free.set()
    with pytest.raises(errors.InstanceNotFound):
        driver.power_off(uuid, timeout=PATIENCE)


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, RuntimeError])
def test_a_thread_that_cannot_start_leaves_no_lock(interrupt, monkeypatch) -> None:
    driver, _ = make(power_on=never)

    def start(self):
        raise interrupt("no more threads")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        expected = errors.HypervisorFault if interrupt is RuntimeError else KeyboardInterrupt
        with pytest.raises(expected):
            driver.power_on(uuid4())
    assert len(driver._locks) == 0


# 5. results and errors ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("operation", "result"),
    [
        ("ping", 3),
        ("host", None),
        ("host", {"driver": "x"}),
        ("get_instance", "a text"),
        ("list_instances", None),
        ("list_instances", [{"uuid": str(UUID(int=1)), "name": "x"}]),
        ("watch", iter(())),
    ],
)
def test_a_wrong_result_is_the_drivers_fault(operation, result) -> None:
    driver, _ = make(**{operation: lambda self, *_, **__: result})
    arguments = [uuid4()] if operation == "get_instance" else []
    with pytest.raises(errors.ContractViolation, match=operation):
        getattr(driver, operation)(*arguments)


def test_a_dictionary_is_no_model_even_if_it_could_be_one() -> None:
    line = {"uuid": uuid4(), "name": "x", "state": InstanceState.RUNNING}
    line |= {"vcpus": 1, "memory_mib": 1}
    driver, _ = make(list_instances=lambda self, *, timeout=None: [line])
    with pytest.raises(errors.ContractViolation, match="in place of a model"):
        driver.list_instances()
    driver, _ = make(list_instances=lambda self, *, timeout=None: (InstanceSummary(**line),))
    assert driver.list_instances() == (InstanceSummary(**line),)


@pytest.mark.parametrize("error", [ValueError("vendor\nsaid"), SystemExit(3), TimeoutError()])
def test_what_is_not_of_the_tree_is_the_drivers_fault(error) -> None:
    def ping(self, *, timeout=None):
        raise error

    driver, _ = make(ping=ping)
    with pytest.raises(errors.ContractViolation, match=type(error).__name__) as caught:
        driver.ping()
    assert caught.value.__cause__ is error
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
def test_a_process_without_descriptors_is_not_the_drivers_fault(number: int) -> None:
    """Python opens a file, too, for a module that is imported late."""
    error = OSError(number, "Too many open files", "source.py")

    def ping(self, *, timeout=None):
        raise error

    driver, _ = make(ping=ping)
    with pytest.raises(errors.HypervisorFault, match="no more files") as caught:
        driver.ping()
    assert caught.value.__cause__ is error
    assert caught.value.retryable
    assert caught.value.hint is not None
    assert "ulimit" in caught.value.hint


def test_an_error_of_the_tree_is_completed_and_keeps_what_it_has() -> None:
    def power_on(self, uuid, *, timeout=None):
        raise errors.DeviceBusy("busy", host="the exact node", vendor_code="7") from OSError("x")

    driver, _ = make(power_on=power_on)
    uuid = uuid4()
    with pytest.raises(errors.DeviceBusy) as caught:
        driver.power_on(uuid)
    error = caught.value
    assert (error.operation, error.instance, error.host) == ("power_on", uuid, "the exact node")
    assert isinstance(error.__cause__, OSError)


# progress -------------------------------------------------------------------------------------


class Stop(Exception):
    """The caller's own."""


@pytest.mark.parametrize("kind", [Stop, KeyboardInterrupt])
@pytest.mark.parametrize("wrapping", [False, True])
def test_what_a_progress_callback_raises_comes_back_as_it_is(kind, wrapping) -> None:
    undone = []

    def spawn(self, spec, *, timeout=None, progress=None):
        try:
            progress(HALF)
        except Exception as error:
            undone.append(spec.uuid)
            if wrapping:
                raise errors.HypervisorFault("upload failed") from error
            raise

    cause, stop = ValueError("why"), kind("stop")

    def callback(_):
        raise stop from cause

    driver, _ = make(spawn=spawn)
    with pytest.raises(kind) as caught:
        driver.spawn(a_spec(), progress=callback)
    assert caught.value is stop
    assert stop.__cause__ is cause
    assert stop.__context__ is None
    assert undone


def test_a_driver_that_goes_on_after_the_callback_raised_breaks_the_contract() -> None:
    def spawn(self, spec, *, timeout=None, progress=None):
        for _ in range(2):
            try:
                progress(HALF)
            except Exception:  # noqa: BLE001 - the mistake under test
                continue
        return LeastDriver.spawn(self, spec)

    seen = []

    def callback(report):
        seen.append(report)
        raise Stop

    driver, _ = make(spawn=spawn)
    with pytest.raises(errors.ContractViolation, match="went on") as caught:
        driver.spawn(a_spec(), progress=callback)
    assert isinstance(caught.value.__cause__, Stop)
    assert seen == [HALF]


def test_nothing_is_reported_to_a_caller_who_has_gone(no_tolerance) -> None:
    free, done, seen = threading.Event(), threading.Event(), []

    def spawn(self, spec, *, timeout=None, progress=None):
        progress(HALF)
        free.wait(PATIENCE)
        progress(HALF)
        done.set()
        return LeastDriver.spawn(self, spec)

    driver, _ = make(spawn=spawn)
    with pytest.raises(errors.OutcomeUnknown):
        driver.spawn(a_spec(), timeout=0.01, progress=seen.append)
    free.set()
    assert done.wait(PATIENCE)
    assert seen == [HALF]


# 6. secrets and the log -----------------------------------------------------------------------

SECRET = "correct horse <battery> staple"


class Passwords(LeastDriver, GuestPassword):
    """A driver whose vendor library repeats what it was given."""

    def set_guest_password(self, uuid, user, password, *, credentials=None, timeout=None):
        text = password.get_secret_value()
        try:
            raise OSError(5, f"{text!r} refused", text)
        except OSError as inner:
            error = errors.HypervisorFault(f"no {text}", vendor_code=text, hint=f"not {text}")
            error.add_note(f"while writing {text}")
            raise error from inner


def texts_of(error: BaseException) -> str:
    parts = []
    current: BaseException | None = error
    while current is not None:
        parts += [str(current), repr(current), repr(vars(current)), repr(current.args)]
        parts += [str(getattr(current, "filename", "")), str(getattr(current, "strerror", ""))]
        current = current.__cause__ or current.__context__
    return "\n".join(parts)


def test_a_secret_of_the_call_is_in_no_error_and_no_log(caplog) -> None:
    driver, _ = make(like=Passwords)
    with caplog.at_level(logging.DEBUG), pytest.raises(errors.HypervisorFault) as caught:
        driver.set_guest_password(uuid4(), "root", SecretStr(SECRET))
    assert "**********" in str(caught.value)
    assert SECRET not in texts_of(caught.value) + caplog.text


def test_a_secret_of_the_connection_is_in_no_error_and_no_log(caplog) -> None:
    def ping(self, *, timeout=None):
        raise ValueError(f"login {SECRET} refused")

    driver, _ = make(guard={"secrets": frozenset({SECRET})}, ping=ping, host_label=SECRET)
    with caplog.at_level(logging.DEBUG), pytest.raises(errors.ContractViolation) as caught:
        driver.ping()
    assert SECRET not in texts_of(caught.value) + caplog.text + repr(driver)


def test_a_secret_in_the_wrong_place_is_not_repeated() -> None:
    driver, _ = make(like=Passwords)
    with pytest.raises(errors.InvalidRequest) as caught:
        driver.set_guest_password(uuid4(), "root", SECRET)
    assert SECRET not in texts_of(caught.value)


def test_each_call_leaves_one_line_with_its_fields(caplog) -> None:
    driver, _ = make(host_label="lab\n1")
    caplog.set_level(logging.DEBUG, "hvdrivers.operations")
    uuid = spawned(driver)
    driver.get_instance(uuid)
    with pytest.raises(errors.NotSupported):
        driver.pause(uuid)
    made, read, refused = caplog.records
    assert [each.levelname for each in caplog.records] == ["INFO", "DEBUG", "WARNING"]
    fields = made.hvdrivers
    assert fields.pop("seconds") >= 0
    assert fields == {
        "operation": "spawn",
        "driver": "twisted",
        "host": "lab?1",
        "instance": str(uuid),
        "outcome": "ok",
    }
    assert read.getMessage().startswith("operation=get_instance driver=twisted host=lab?1 inst")
    assert refused.hvdrivers["outcome"] == "NotSupported"


# closing --------------------------------------------------------------------------------------


def test_closing_twice_calls_the_driver_once_and_leaves_no_thread() -> None:
    closed = []
    driver, _ = make(close=lambda self, *, timeout=None: closed.append(timeout))
    name = driver._workers._name = f"hvdrivers-{uuid4()}"
    uuids = [spawned(driver) for _ in range(3)]
    threads = [in_thread(lambda uuid=uuid: driver.get_instance(uuid)) for uuid in uuids * 5]
    for thread in threads:
        thread.join(PATIENCE)
    with driver:
        driver.close()
    driver.close(timeout=3)
    assert len(closed) == 1
    assert closed[0] > 0
    assert not [thread for thread in threading.enumerate() if thread.name == name]


def test_a_forked_process_is_refused(monkeypatch) -> None:
    """The guard's threads are those of the process that connected: the call would never be made."""
    driver, _ = make(ping=lambda self, *, timeout=None: None)
    driver.ping()
    own = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: own + 1)
    with pytest.raises(errors.ConnectionFailed, match="forked") as caught:
        driver.ping()
    assert not caught.value.retryable
    monkeypatch.undo()
    driver.ping()


def test_a_closed_driver_does_nothing_more() -> None:
    driver, _ = make()
    driver.close()
    with pytest.raises(errors.ConnectionFailed, match="closed") as caught:
        driver.ping()
    assert not caught.value.retryable
    assert driver.capabilities
    assert driver.host_label


def test_a_close_that_fails_or_hangs_closes_all_the_same(no_tolerance) -> None:
    hang, free, _ = hanging()
    driver, _ = make(close=hang)
    with pytest.raises(
        errors.OutcomeUnknown if OPERATIONS["close"].changes else errors.OperationTimeout
    ):
        driver.close(timeout=0.01)
    driver.close()
    with pytest.raises(errors.ConnectionFailed):
        driver.ping()
    free.set()


def test_a_driver_that_is_dropped_leaves_no_thread_and_says_so() -> None:
    driver, _ = make()
    name = driver._workers._name = f"hvdrivers-{uuid4()}"
    driver.list_instances()
    assert [each for each in threading.enumerate() if each.name == name]
    with pytest.warns(ResourceWarning, match="unclosed driver twisted"):  # noqa: PT031
        del driver
        gc.collect()
    wait_for_no_thread(name)


def test_a_driver_that_was_closed_says_nothing_when_it_is_dropped() -> None:
    driver, _ = make()
    driver.list_instances()
    driver.close()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        del driver
        gc.collect()


def wait_for_no_thread(name: str) -> None:
    for each in threading.enumerate():
        if each.name == name:
            each.join(PATIENCE)
    assert not [each for each in threading.enumerate() if each.name == name]


def test_a_busy_thread_ends_after_its_call() -> None:
    hang, free, entered = hanging()
    driver, _ = make(ping=hang)
    name = driver._workers._name = f"hvdrivers-{uuid4()}"
    caller = in_thread(lambda: driver.ping(timeout=PATIENCE))
    assert entered.wait(PATIENCE)
    driver.close()
    busy = [thread for thread in threading.enumerate() if thread.name == name]
    assert len(busy) == 1
    free.set()
    caller.join(PATIENCE)
    busy[0].join(PATIENCE)
    assert not busy[0].is_alive()


def test_threads_are_used_again() -> None:
    driver, _ = make()
    name = driver._workers._name = f"hvdrivers-{uuid4()}"
    for _ in range(100):
        driver.ping()
    assert len([thread for thread in threading.enumerate() if thread.name == name]) == 1
    driver.close()


def test_a_worker_sees_the_callers_context() -> None:
    import contextvars

    request = contextvars.ContextVar("request")
    seen = []
    driver, _ = make(ping=lambda self, *, timeout=None: seen.append(request.get()))
    request.set("r-1")
    driver.ping()
    assert seen == ["r-1"]


def test_memory_of_a_snapshot_is_a_capability() -> None:
    class Snapping(LeastDriver, Snapshots):
        create_snapshot = list_snapshots = revert_snapshot = delete_snapshot = never

    driver, _ = make(like=Snapping)
    with pytest.raises(errors.NotSupported, match="snapshot-memory"):
        driver.create_snapshot(uuid4(), "s", memory=True)


# 12. what a traceback in a log shows ------------------------------------------------------------


def test_a_traceback_ends_with_the_hint() -> None:
    driver, _ = make()
    with pytest.raises(errors.InstanceNotFound) as missing:
        driver.get_instance(uuid4())
    shown = "".join(traceback.format_exception(missing.value))
    assert shown.rstrip().splitlines()[-1] == f"hint: {missing.value.hint}"


def test_an_error_has_its_hint_once_and_survives_a_pickle() -> None:
    error = errors.DeviceBusy("busy", hint="wait")
    error.locate(operation="detach_volume")
    error.locate(host="here")
    copy = pickle.loads(pickle.dumps(error))
    assert error.__notes__ == copy.__notes__ == ["hint: wait"]


@pytest.mark.parametrize(
    ("error", "wanted"),
    [
        (errors.DeviceBusy("busy"), True),
        (errors.DeviceBusy("busy", retryable=False), False),
        (errors.OutcomeUnknown("lost"), True),
        (errors.InvalidRequest("wrong"), False),
        (ValueError("wrong"), False),
    ],
)
def test_what_is_worth_repeating(error: Exception, wanted: bool) -> None:
    assert errors.worth_repeating(error) is wanted
