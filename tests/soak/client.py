"""One client: threads that own instances on every host and do random operations on them.

A process of its own (``python -m tests.soak.client CONFIG``), or, for a host that lives in one
process, an object in it. It runs until the file ``stop`` appears in its folder, and writes its
journal, its violations and its own size there.
"""

from __future__ import annotations

import ctypes
import errno
import faulthandler
import json
import os
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

from hvdrivers import connect
from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability
from hvdrivers.contract.driver import OPERATIONS, ComputeDriver
from hvdrivers.contract.power import RebootKind
from hvdrivers.guard import TOLERANCE
from hvdrivers.models.events import LifecycleEvent, ResyncEvent
from hvdrivers.models.image import FileImage, HostImage, ImageRef
from hvdrivers.models.instance import Flavor, InstanceSpec
from hvdrivers.models.state import InstanceState
from hvdrivers.models.volume import PoolVolume, VolumeAttachment
from tests.soak.hosts import uuid_of
from tests.soak.model import Expected, Violation

_T = TypeVar("_T")

SLACK = 30.0
"""Seconds beyond deadline and tolerance: what a machine that runs ten soaks at once may add."""
_IMAGES = {"file": FileImage, "host": HostImage}


_MOST_CPUS = 3
_BLOCK_MIB = 128
"""Memory is plugged in such blocks."""


def _own_disks(flavor: Flavor) -> dict[str, int]:
    """The sizes of a flavor that resize() cannot change."""
    return {"ephemeral_gib": flavor.ephemeral_gib, "swap_mib": flavor.swap_mib}


class Client:
    """One client.

    ``config``: ``number``, ``seed``, ``threads``, ``timeout``, ``folder``, ``fresh`` (False: it
    takes over from one that was killed), and ``hosts``: of each its driver, options, image,
    flavor, volumes by thread.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config = config
        self.folder = Path(config["folder"])
        self.number: int = config["number"]
        self.stopping = threading.Event()
        self._lock = threading.Lock()
        self._journal = (self.folder / f"client-{self.number}.jsonl").open("a", buffering=1)
        self._drivers: list[ComputeDriver] = []
        self._events: list[dict[UUID, InstanceState]] = []
        self._killed = 0
        self.operations = 0

    # -- life -------------------------------------------------------------------------------------

    def run(self) -> None:
        """Work until told to stop."""
        for each in self.config["hosts"]:
            self._drivers.append(self._connected(each))
            self._events.append({})
        threads = [
            threading.Thread(target=self._follow, args=(index,), name=f"follow-{index}")
            for index in range(len(self._drivers))
        ]
        threads += [
            threading.Thread(target=self._guarded, args=(index,), name=f"work-{index}")
            for index in range(self.config["threads"])
        ]
        for thread in threads:
            thread.start()
        while not (self.folder / "stop").exists():
            time.sleep(0.5)
            self._measure()
        self.stopping.set()
        for thread in threads:
            thread.join(timeout=self.config["timeout"] + TOLERANCE + 2 * SLACK)
            if thread.is_alive():
                faulthandler.dump_traceback(all_threads=True)
                self.violated(f"the thread {thread.name} does not come back")
        for driver in self._drivers:
            held = len(driver._locks)  # type: ignore[attr-defined]
            if held:
                self.violated(f"{held} instances are still locked")
            with suppress(errors.HypervisorError):
                driver.close()
        self._note(end=True)
        self._journal.close()

    def _connected(self, host: Mapping[str, Any]) -> ComputeDriver:
        while True:
            try:
                return connect(host["driver"], **host["options"])
            except errors.ConnectionFailed:
                time.sleep(0.2)

    def violated(self, what: str, uuid: UUID | None = None) -> None:
        """Write down what must not be, with the last that was done to the instance."""
        path = self.folder / "violations.jsonl"
        with self._lock, _patiently(lambda: path.open("a")) as file:
            file.write(
                json.dumps({"client": self.number, "uuid": str(uuid), "what": what, "at": _now()})
                + "\n"
            )

    def _note(self, **fields: Any) -> None:
        with self._lock:
            self._journal.write(json.dumps({"at": _now(), **fields}, default=str) + "\n")

    def _measure(self) -> None:
        fields = {
            "threads": threading.active_count(),
            **_descriptors(),
            "rss_kib": _rss(),
            "blocks": sys.getallocatedblocks(),
            "malloc_kib": _malloc(),
            "operations": self.operations,
        }
        self._note(size=fields)

    # -- events -----------------------------------------------------------------------------------

    def _follow(self, index: int) -> None:
        """Keep what watch() says of each instance, over every gap."""
        states = self._events[index]
        while not self.stopping.is_set():
            try:
                with self._drivers[index].watch() as stream:
                    while not self.stopping.is_set():
                        event = stream.next(timeout=0.5)
                        if isinstance(event, ResyncEvent):
                            states.clear()
                            states.update(event.states)
                        elif isinstance(event, LifecycleEvent):
                            if event.state is None:
                                states.pop(event.uuid, None)
                            else:
                                states[event.uuid] = event.state
            except errors.HypervisorError:
                self.stopping.wait(0.2)
            except Exception as error:  # noqa: BLE001 - every other is a violation
                self.violated(f"watch() raised {type(error).__name__}: {error}")
                self.stopping.wait(1)

    # -- work -------------------------------------------------------------------------------------

    def _guarded(self, thread: int) -> None:
        rng = random.Random(f"{self.config['seed']}-{self.number}-{thread}-{time.time_ns()}")
        workers = [
            Worker(self, host, index, thread, rng)
            for index, host in enumerate(self.config["hosts"])
        ]
        while not self.stopping.is_set():
            rng.choice(workers).step()

    def call(self, uuid: UUID, operation: str, work: Callable[[float], Any]) -> Any:
        """One operation: within its deadline, and with a typed error or none."""
        timeout: float = self.config["timeout"]
        began = time.monotonic()
        outcome = "ok"
        try:
            return work(timeout)
        except errors.HypervisorError as error:
            outcome = f"{type(error).__name__}: {error}"
            raise
        except Exception as error:
            outcome = f"{type(error).__name__}: {error}"
            raise Violation(f"{operation}() raised {outcome}") from error
        finally:
            seconds = time.monotonic() - began
            self.operations += 1
            self._note(uuid=uuid, operation=operation, outcome=outcome, seconds=round(seconds, 3))
            if seconds > timeout + TOLERANCE + SLACK:
                self.violated(f"{operation}() took {seconds:.1f} s, timeout {timeout:g} s", uuid)

    def has_died(self, uuid: UUID) -> bool:
        """Whether the disturber has ended this machine's process."""
        path = self.folder / "killed"
        return path.exists() and str(uuid) in _patiently(path.read_text).split()


class Worker:
    """One thread's instance on one host."""

    def __init__(
        self, client: Client, host: Mapping[str, Any], index: int, thread: int, rng: random.Random
    ) -> None:
        self.client = client
        self.host = host
        self.driver = client._drivers[index]
        self.rng = rng
        self.uuid = uuid_of(client.config["seed"], client.number, thread, index)
        self.volumes: list[str] = host["volumes"][thread]
        self.flavor = Flavor.model_validate(host["flavor"])
        self.model = self._expected(known=client.config["fresh"])

    def step(self) -> None:
        """One random operation, and often a look at what it did."""
        try:
            self._act()
            if self.rng.random() < 0.4:
                self._look()
        except Violation as violation:
            self.client.violated(str(violation), self.uuid)
            self.model = self._expected(known=False)

    def _expected(self, *, known: bool) -> Expected:
        model = Expected(
            known=known,
            forgets_crashes=self.host["forgets_crashes"],
            runs_to_the_end=self.host["runs_to_the_end"],
            capabilities=self.driver.capabilities,
        )
        model.attached = dict.fromkeys(self.volumes, False if known else None)
        if not known:  # the client that was killed may have asked the guest for any of them
            model.leaving = set(self.volumes)
        return model

    # -- changes ----------------------------------------------------------------------------------

    def _act(self) -> None:
        if None in self.model.possible and self.rng.random() < 0.8:
            self._spawn()
            return
        actions: list[tuple[float, Callable[[], None]]] = [
            (3, lambda: self._plain("power_on")),
            (2, lambda: self._plain("power_off")),
            (1, lambda: self._plain("reboot", RebootKind.HARD)),
            (4, self._attach),
            (4, self._detach),
            (2, self._metadata),
            (1.5, lambda: self._plain("destroy")),
            (0.5, self._spawn),
            (1, self._bulk),
        ]
        for operation, weight in (("pause", 1), ("unpause", 2), ("suspend", 1), ("resume", 2)):
            if self.driver.why_not(OPERATIONS[operation].capability) is None:  # type: ignore[arg-type]
                actions.append((weight, lambda operation=operation: self._plain(operation)))  # type: ignore[misc]
        for operation, weight, act in (
            ("rename", 0.7, self._rename),
            ("resize", 1, self._resize),
            ("hot_resize_cpu", 0.7, self._hot_cpu),
            ("hot_resize_memory", 0.7, self._hot_memory),
            ("rebuild", 0.7, self._rebuild),
            ("snapshot_to_image", 0.7, self._copy_out),
            ("extend_volume", 0.7, self._extend),
        ):
            if self._can(OPERATIONS[operation].capability):
                actions.append((weight, act))
        weights = [weight for weight, _ in actions]
        self.rng.choices([action for _, action in actions], weights)[0]()

    def _can(self, capability: Capability | None) -> bool:
        return capability is None or self.driver.why_not(capability) is None

    def _flavor(self, *, disks: bool) -> Flavor:
        """The host's flavor, or one with room to grow, or one with more disks."""
        changes: dict[str, int] = {}
        base = Flavor.model_validate(self.host["flavor"])
        if self._can(Capability.HOT_RESIZE_CPU) and self.rng.random() < 0.5:
            changes["max_vcpus"] = _MOST_CPUS
        if self._can(Capability.HOT_RESIZE_MEMORY) and self.rng.random() < 0.5:
            changes["max_memory_mib"] = base.memory_mib + 2 * _BLOCK_MIB
        if disks and self._can(Capability.EPHEMERAL_DISK) and self.rng.random() < 0.3:
            changes["ephemeral_gib"] = 1
        if disks and self._can(Capability.SWAP_DISK) and self.rng.random() < 0.3:
            changes["swap_mib"] = 8
        return base.model_copy(update=changes)

    def _image(self) -> ImageRef:
        fields = dict(self.host["image"])
        return _IMAGES[fields["source"]].model_validate(fields)

    def _spawn(self) -> None:
        started = self.rng.random() < 0.8
        self.flavor = self._flavor(disks=True)
        spec = InstanceSpec(
            uuid=self.uuid,
            name=f"soak-{self.client.number}",
            flavor=self.flavor,
            image=self._image(),
            start=started,
        )
        try:
            self.client.call(
                self.uuid, "spawn", lambda timeout: self.driver.spawn(spec, timeout=timeout)
            )
        except errors.HypervisorError as error:
            self.model.failed("spawn", error, started=started)
        else:
            self.model.succeeded("spawn", started=started)
            for what, value in (
                ("name", spec.name),
                ("vcpus", spec.flavor.vcpus),
                ("memory_mib", spec.flavor.memory_mib),
            ):
                self.model.value_set(what, value, sure=True)

    # -- changes of more than the state -----------------------------------------------------------

    def _rename(self) -> None:
        name = f"soak-{self.client.number} <{self.rng.randrange(1 << 16)}>"
        self._changing("rename", name, values={"name": name})

    def _resize(self) -> None:
        wanted = self._flavor(disks=False).model_copy(
            update={"vcpus": self.rng.choice((1, 2)), **_own_disks(self.flavor)}
        )
        values = {"vcpus": wanted.vcpus, "memory_mib": wanted.memory_mib}
        if self._changing("resize", wanted, values=values):
            self.flavor = wanted

    def _hot_cpu(self) -> None:
        vcpus = self.rng.randint(1, _MOST_CPUS)
        self._changing("hot_resize_cpu", vcpus, values={"vcpus": vcpus})

    def _hot_memory(self) -> None:
        memory = self.flavor.memory_mib + self.rng.choice((0, 1, 2)) * _BLOCK_MIB
        self._changing("hot_resize_memory", memory, values={"memory_mib": memory})

    def _rebuild(self) -> None:
        self._changing("rebuild", self._image())

    def _copy_out(self) -> None:
        target = self.client.folder / f"image-{self.uuid}"
        try:
            self._changing("snapshot_to_image", target)
        finally:
            target.unlink(missing_ok=True)

    def _extend(self) -> None:
        size = (8 << 20) + 4096 * self.rng.randint(1, 64)
        self._changing("extend_volume", self.rng.choice(self.volumes), size)

    def _changing(
        self, operation: str, *arguments: object, values: Mapping[str, object] | None = None
    ) -> bool:
        """One change, after which get_instance() shows these values; whether it succeeded."""
        before = self.model.possible
        values = values or {}
        try:
            self.client.call(
                self.uuid,
                operation,
                lambda timeout: getattr(self.driver, operation)(
                    self.uuid, *arguments, timeout=timeout
                ),
            )
        except errors.HypervisorError as error:
            self._with_deaths(before, partial(self._failed, operation, error))
            if isinstance(error, errors.OutcomeUnknown | errors.HypervisorFault):
                for what, value in values.items():
                    self.model.value_set(what, value, sure=False)
            return False
        self._with_deaths(before, lambda: self.model.succeeded(operation))
        for what, value in values.items():
            self.model.value_set(what, value, sure=True)
        return True

    def _plain(self, operation: str, variant: Enum | None = None) -> None:
        before = self.model.possible
        arguments = (self.uuid,) if variant is None else (self.uuid, variant)
        try:
            self.client.call(
                self.uuid,
                operation,
                lambda timeout: getattr(self.driver, operation)(*arguments, timeout=timeout),
            )
        except errors.HypervisorError as error:
            self._with_deaths(before, partial(self._failed, operation, error, variant))
        else:
            self._with_deaths(before, lambda: self.model.succeeded(operation, variant))

    def _failed(
        self, operation: str, error: errors.HypervisorError, variant: Enum | None = None
    ) -> None:
        died = self.client.has_died(self.uuid)
        self.model.failed(operation, error, variant, died=died)

    def _with_deaths(self, before: frozenset[Any], settle: Callable[[], None]) -> None:
        """Settle; if that fails, once more for a machine that has died meanwhile."""
        try:
            settle()
        except Violation:
            if not self.client.has_died(self.uuid):
                raise
            self.model.possible = before | {InstanceState.CRASHED, InstanceState.STOPPED}
            settle()

    def _attach(self) -> None:
        self._device("attach_volume", self.rng.choice(self.volumes), attached=True)

    def _detach(self) -> None:
        self._device("detach_volume", self.rng.choice(self.volumes), attached=False)

    def _device(self, operation: str, volume: str, *, attached: bool) -> None:
        before = self.model.possible
        argument = (
            VolumeAttachment(volume=PoolVolume.model_validate(self.host["pool_volumes"][volume]))
            if attached
            else volume
        )
        # a machine without an operating system lets go of nothing: that is DeviceBusy in the end
        seconds = 3.0 if not attached else None
        try:
            self.client.call(
                self.uuid,
                operation,
                lambda timeout: getattr(self.driver, operation)(
                    self.uuid, argument, timeout=seconds or timeout
                ),
            )
        except errors.HypervisorError as error:
            self._with_deaths(before, partial(self._failed, operation, error))
            if isinstance(error, errors.OutcomeUnknown | errors.HypervisorFault):
                self.model.device_set(volume, attached, sure=False)
            if not attached and isinstance(error, errors.DeviceBusy | errors.OutcomeUnknown):
                self.model.device_kept(volume)
        else:
            self._with_deaths(before, lambda: self.model.succeeded(operation))
            self.model.device_set(volume, attached, sure=True)

    def _metadata(self) -> None:
        before = self.model.possible
        value = {"step": str(self.rng.randrange(1 << 30)), "text": "<&>'\"\n"}
        try:
            self.client.call(
                self.uuid,
                "set_metadata",
                lambda timeout: self.driver.set_metadata(self.uuid, value, timeout=timeout),
            )
        except errors.HypervisorError as error:
            self._with_deaths(before, partial(self._failed, "set_metadata", error))
            if isinstance(error, errors.OutcomeUnknown | errors.HypervisorFault):
                self.model.metadata_set(value, sure=False)
        else:
            self._with_deaths(before, lambda: self.model.succeeded("set_metadata"))
            self.model.metadata_set(value, sure=True)

    # -- looks ------------------------------------------------------------------------------------

    def _look(self) -> None:
        """get and list, which must agree with the model and so with each other."""
        try:
            info = self.client.call(
                self.uuid,
                "get_instance",
                lambda timeout: self.driver.get_instance(self.uuid, timeout=timeout),
            )
        except errors.InstanceNotFound:
            self.model.seen(None, "get_instance()")
        except errors.HypervisorError:
            return
        else:
            self._seen(info.state, "get_instance()")
            self.model.seen_whole(info)
        try:
            found = self.client.call(
                self.uuid,
                "list_instances",
                lambda timeout: self.driver.list_instances(timeout=timeout),
            )
        except errors.HypervisorError:
            return
        states = {each.uuid: each.state for each in found}
        self._seen(states.get(self.uuid), "list_instances()")

    def _seen(self, state: InstanceState | None, where: str) -> None:
        # asked after the read: a machine can die between two reads
        self.model.seen(state, where, died=self.client.has_died(self.uuid))

    def _bulk(self) -> None:
        for read in ("get_metrics", "list_volumes", "get_available_resource"):
            call = getattr(self.driver, read)
            with suppress(errors.HypervisorError):
                self.client.call(self.uuid, read, lambda timeout, call=call: call(timeout=timeout))  # type: ignore[misc]


def _patiently(call: Callable[[], _T]) -> _T:
    """What the client itself needs a descriptor for, while the disturber leaves it none."""
    while True:
        try:
            return call()
        except OSError as error:
            if error.errno != errno.EMFILE:
                raise
            time.sleep(0.01)


def _now() -> float:
    return round(time.time(), 3)


def _descriptors() -> dict[str, int]:
    """How many there are, and how many of them are sockets and eventfds."""
    kinds: Counter[str] = Counter()
    for name in _patiently(lambda: os.listdir("/proc/self/fd")):
        with suppress(OSError):  # the listing's own, or one that was closed meanwhile
            kinds[os.readlink(f"/proc/self/fd/{name}").partition(":")[0]] += 1
    return {
        "descriptors": kinds.total(),
        "sockets": kinds["socket"],
        "eventfds": kinds["anon_inode"],
    }


def _rss() -> int:
    for line in _patiently(Path("/proc/self/status").read_text).splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    return 0


class _Mallinfo(ctypes.Structure):
    """``struct mallinfo2`` of mallinfo(3)."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    )


_MALLINFO = getattr(ctypes.CDLL(None), "mallinfo2", None)


def _malloc() -> int:
    """KiB that C code holds, libvirt's among it; 0 where the C library cannot tell.

    The resident size also counts what is free in between."""
    if _MALLINFO is None:
        return 0
    _MALLINFO.restype = _Mallinfo
    found = _MALLINFO()
    return int(found.uordblks + found.hblkhd) >> 10


if __name__ == "__main__":
    faulthandler.enable()
    Client(json.loads(Path(sys.argv[1]).read_text())).run()
