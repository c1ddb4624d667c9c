"""A trial: what one check gets to work with, and what is cleaned up after it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from typing import Any
from uuid import UUID, uuid4

from pydantic import SecretBytes

from hvdrivers.conformance.engine.journal import Journal
from hvdrivers.conformance.engine.observer import FaultSeam, NotShown, Observer, PreconditionMissing
from hvdrivers.conformance.engine.target import Target
from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability
from hvdrivers.contract.driver import ComputeDriver
from hvdrivers.contract.limits import Limit
from hvdrivers.models.cloudinit import CloudInit
from hvdrivers.models.instance import Firmware, InstanceInfo, InstanceSpec, InstanceSummary
from hvdrivers.models.snapshot import Snapshot
from hvdrivers.models.state import InstanceState
from hvdrivers.models.volume import HostVolume, Volume, VolumeAttachment, VolumeSpec

METADATA_KEY = "hvdrivers.conformance.run"


_ASKS = 10
"""How many times as long as a list of the instances no operation takes to ask its host."""


class Failed(AssertionError):
    """The driver broke the clause."""


class Limited(Exception):
    """The driver declares a limit, and the check would break it."""

    def __init__(self, limit: Limit, reason: str) -> None:
        super().__init__(f"declared: {limit}: {reason}")
        self.limit = limit


class Declined(Exception):
    """The driver does not do what a MAY clause leaves to it. The sentence says what it does."""


def _listed(driver: ComputeDriver, uuid: UUID) -> InstanceSummary | None:
    return next((each for each in driver.list_instances() if each.uuid == uuid), None)


class Trial:
    """Makes instances and volumes with a prefix of its own, counts what was checked, and removes
    everything afterwards, in reverse order, whatever happened."""

    def __init__(
        self,
        target: Target,
        driver: ComputeDriver,
        journal: Journal,
        second: Callable[[], ComputeDriver] | None = None,
    ) -> None:
        self.target = target
        self.driver = driver
        self.journal = journal
        self._made: list[UUID] = []
        self.checked = 0
        """How often check() was called: a trial that checks nothing is an error of the suite."""
        self._stack = ExitStack()
        self._volumes = ExitStack()
        self._attachment: VolumeAttachment | None = None
        self.notes: dict[str, Any] = {}
        """What one step of a check wants another to find."""
        self._second = second
        self._other: ComputeDriver | None = None

    # ---- saying what is wrong -------------------------------------------------------------------

    def check(self, condition: object, message: str) -> None:
        """The clause is broken unless ``condition`` is true."""
        self.checked += 1
        if not condition:
            raise Failed(message)

    def equal(self, found: object, expected: object, what: str) -> None:
        """The clause is broken unless both are equal."""
        self.check(found == expected, f"{what}: expected {expected!r}, found {found!r}")

    @contextmanager
    def raises(
        self, *classes: type[errors.HypervisorError]
    ) -> Iterator[list[errors.HypervisorError]]:
        """The block must raise one of these; the list gets the error."""
        caught: list[errors.HypervisorError] = []
        names = " or ".join(each.__name__ for each in classes)
        try:
            yield caught
        except (PreconditionMissing, NotShown, Limited):
            raise
        except errors.HypervisorError as error:
            self.check(
                isinstance(error, classes), f"raised {type(error).__name__} ({error}), not {names}"
            )
            caught.append(error)
        else:
            self.check(False, f"raised nothing, where the contract says {names}")

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """The block must leave everything on the host as it was."""
        before = self.picture()
        yield
        after = self.picture()
        for part, was in before.items():
            self.equal(after[part], was, f"changed by what must change nothing: {part}")

    def picture(self) -> dict[str, Any]:
        """Everything that can be seen of the host: by the driver, and by the observer."""
        infos = {}
        for each in self.driver.list_instances():
            with suppress(errors.InstanceNotFound):
                infos[each.uuid] = self.driver.get_instance(each.uuid)
        picture: dict[str, Any] = {
            "instances": infos,
            "foreign machines": sorted(
                (each.uuid.hex, each.state) for each in self.driver.list_foreign()
            ),
        }
        if self.has(Capability.HOST_VOLUMES):
            picture["volumes"] = sorted(each.volume_id for each in self.driver.list_volumes())
        if self.has(Capability.SNAPSHOTS):
            picture["snapshots"] = {
                uuid: trees for uuid in infos if (trees := self._snapshots(uuid))
            }
        observer = self.observer
        if observer is not None:
            picture["residue"] = observer.residue()
        return picture

    def _snapshots(self, uuid: UUID) -> list[Snapshot]:
        try:
            return list(self.driver.list_snapshots(uuid))
        except errors.InstanceNotFound:
            return []

    def eventually(
        self, condition: Callable[[], bool], message: str, timeout: float = 30.0
    ) -> None:
        """The clause is broken unless the condition comes true in time."""
        self.check(self.becomes(condition, timeout), message)

    def becomes(self, condition: Callable[[], bool], timeout: float) -> bool:
        """Whether the condition comes true in time."""
        end = time.monotonic() + self.patience(timeout)
        while not condition():
            if time.monotonic() > end:
                return False
            time.sleep(0.02)
        return True

    # ---- time -----------------------------------------------------------------------------------

    def patience(self, seconds: float) -> float:
        """How long to wait for what a host that takes its time does within ``seconds``."""
        if self.target.immediate:
            seconds = min(seconds, self.target.at_once)
        return seconds * self.target.time_scale

    def deadline(self, seconds: float) -> float:
        """A deadline that will be slept out, longer on a slow host. It is never so short that a
        busy machine could spend it before the driver has asked its host: that is measured now."""
        began = time.monotonic()
        self.driver.list_instances()
        asked = time.monotonic() - began
        return max(seconds * self.target.time_scale, _ASKS * asked)

    # ---- what there is to work with -------------------------------------------------------------

    def has(self, *capabilities: Capability) -> bool:
        """Whether the driver declares all of these."""
        return self.driver.capabilities >= set(capabilities)

    def unless(self, limit: Limit) -> None:
        """Stop here if the driver declares this limit: refused as declared."""
        reason = self.driver.limits.get(limit)
        if reason is not None:
            raise Limited(limit, reason)

    @property
    def observer(self) -> Observer | None:
        """Who reads the truth by another path, if anybody does."""
        return self.target.observer()

    @property
    def faults(self) -> FaultSeam:
        """The seam in the transport of ``driver``."""
        seam = self.target.faults(self.driver)
        if seam is None:
            raise PreconditionMissing("the target has no fault seam (faults)")
        return seam

    def connect(self) -> ComputeDriver:
        """A new connection, closed after the check: for what must not depend on what another
        check did by it, and for a clause about connecting, closing, threads or events."""
        return self._stack.enter_context(self.target.connect())

    @property
    def other(self) -> ComputeDriver:
        """Another connection, the same one throughout the check. The run keeps it for the checks
        that follow, because a new connection may cost a process on the host."""
        if self._other is None:
            self._other = self._second() if self._second is not None else self.connect()
        return self._other

    def spec(self, **changes: Any) -> InstanceSpec:
        """A spec of a small instance, named and marked as the suite's own."""
        uuid: UUID = changes.pop("uuid", None) or uuid4()
        metadata: Mapping[str, str] = changes.pop("metadata", {})
        boots = any(each.boot_index == 0 for each in changes.get("volumes", ()))
        if "image" not in changes and not boots:
            changes["image"] = self.target.image()
        return InstanceSpec(
            **{
                "uuid": uuid,
                "name": f"{self.journal.prefix}{uuid.hex[:6]}",
                "flavor": self.target.flavor,
                "metadata": {METADATA_KEY: self.journal.run, **metadata},
                **changes,
            }
        )

    def spawn(self, spec: InstanceSpec | None = None, **changes: Any) -> InstanceInfo:
        """Spawn, and destroy after the check. Written into the journal before it is tried."""
        spec = spec or self.spec(**changes)
        self.will_destroy(spec.uuid)
        return self.driver.spawn(spec)

    def will_destroy(self, uuid: UUID) -> None:
        """Remember an instance that is about to be made."""
        self.journal.instance(uuid)
        self._made.append(uuid)
        self._stack.callback(self._destroy, uuid)

    def _destroy(self, uuid: UUID) -> None:
        # a driver may break the clause that destroying twice is allowed: it is not there
        with suppress(errors.InstanceNotFound):
            self.driver.destroy(uuid)
        self.journal.done(str(uuid))

    def everything(self) -> dict[str, Any]:
        """Changes to a spec that make an instance have all that this driver can give it."""
        changes: dict[str, Any] = {}
        with suppress(PreconditionMissing):
            changes["vifs"] = (self.target.vif("hvct-nic"),)
        if self.has(Capability.HOST_VOLUMES):
            changes["volumes"] = (self.attachment(),)
        if self.has(Capability.CONFIG_DRIVE, Capability.USER_DATA):
            changes["cloud_init"] = CloudInit(user_data=SecretBytes(b"#!/bin/sh\n"))
        if self.has(Capability.UEFI):
            changes["firmware"] = Firmware.UEFI
        if self.has(Capability.VTPM):
            changes["vtpm"] = True
        update = {}
        if self.has(Capability.EPHEMERAL_DISK):
            update["ephemeral_gib"] = 1
        if self.has(Capability.SWAP_DISK):
            update["swap_mib"] = 16
        changes["flavor"] = self.target.flavor.model_copy(update=update)
        return changes

    def volume(self, size_bytes: int | None = 64 << 20, **changes: Any) -> Volume:
        """A new volume, deleted after the check.

        Args:
            changes: further fields of the VolumeSpec.
        """
        self.need(Capability.HOST_VOLUMES)
        name = changes.pop("name", None) or f"{self.journal.prefix}{uuid4().hex[:8]}"
        self.journal.volume(name)
        try:
            spec = VolumeSpec(name=name, size_bytes=size_bytes, **changes)
            volume = self.driver.create_volume(spec)
        except errors.HypervisorError as error:
            if not isinstance(error, errors.OutcomeUnknown):
                self.journal.done(name)
            raise
        self._volumes.callback(self._delete_volume, name, volume.volume_id)
        return volume

    def _delete_volume(self, name: str, volume_id: str) -> None:
        self.driver.delete_volume(volume_id)
        self.journal.done(name)

    def will_keep(self, uuid: UUID, disk: str = "root") -> None:
        """A destroy() is to keep this disk: it is deleted after the check."""
        self.journal.volume(f"{uuid}-{disk}")
        self._volumes.callback(self._delete_kept, uuid, disk)

    def _delete_kept(self, uuid: UUID, disk: str) -> None:
        for each in self.kept(uuid, disk):
            self.driver.delete_volume(each.volume_id)
        self.journal.done(f"{uuid}-{disk}")

    def kept(self, uuid: UUID, disk: str = "root") -> list[HostVolume]:
        """What destroy() has kept of it. The hypervisor's own name contains the one that the
        contract gives it."""
        return [each for each in self.driver.list_volumes() if f"{uuid}-{disk}" in each.name]

    def attachment(self) -> VolumeAttachment:
        """A volume, as attach_volume() takes it; always the same one in one trial."""
        if self._attachment is None:
            self._attachment = VolumeAttachment(volume=self.volume())
        return self._attachment

    def expect_agreement(self, *drivers: ComputeDriver) -> None:
        """list_instances() must tell of each instance of this check what get_instance() tells. The
        runner asks for it after every check.

        Args:
            drivers: the connections; that of the check if there are none.
        """
        for driver in drivers or (self.driver,):
            for uuid in self._made:
                self._expect_agreement(driver, uuid)

    def _expect_agreement(self, driver: ComputeDriver, uuid: UUID) -> None:
        before = _listed(driver, uuid)
        for _ in range(10):
            try:
                found = driver.get_instance(uuid).summary()
            except errors.InstanceNotFound:
                found = None
            if found == before:
                return
            after = _listed(driver, uuid)
            if found == after:
                return
            if before == after:
                break
            before = after  # its guest may be at something
        raise Failed(
            f"get_instance() and list_instances() do not agree (LAW-007): {found!r}, {after!r}"
        )

    def state(self, uuid: UUID) -> InstanceState:
        """The state, by the driver."""
        return self.driver.get_instance(uuid).state

    def in_state(self, state: InstanceState, **changes: Any) -> UUID:
        """A new instance, brought into this state by the contract's own operations."""
        if state is InstanceState.STOPPED:
            return self.spawn(start=False, **changes).uuid
        if state is InstanceState.BUILDING:
            raise PreconditionMissing("no operation leads to a lasting BUILDING")
        if state is InstanceState.CRASHED:
            self.unless(Limit.NEVER_CRASHED)
        uuid = self.spawn(**changes).uuid
        if state is InstanceState.PAUSED:
            self.need(Capability.PAUSE)
            self.driver.pause(uuid)
        elif state is InstanceState.SUSPENDED:
            self.need(Capability.SUSPEND)
            self.driver.suspend(uuid)
        elif state is InstanceState.RESCUED:
            self.need(Capability.RESCUE)
            self.driver.rescue(uuid, self.target.image())
        elif state is InstanceState.CRASHED:
            self.target.crash(self.driver, uuid)
        self.equal(self.state(uuid), state, "state that the check begins with")
        return uuid

    def need(self, *capabilities: Capability) -> None:
        """Stop here if the driver does not declare these."""
        missing = sorted(set(capabilities) - self.driver.capabilities)
        if missing:
            raise PreconditionMissing(f"the driver does not declare {', '.join(missing)}")

    def after(self, callback: Callable[[], object]) -> None:
        """Do something after the check."""
        self._stack.callback(callback)

    def close(self) -> None:
        """Remove everything: the volumes after the machines that have them."""
        with self._volumes, self._stack:
            pass
