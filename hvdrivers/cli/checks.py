"""What ``doctor`` looks at: contract operations, which serve every driver, and what the driver
itself knows of hosts of its kind.

Nothing here changes anything on the host: whether *changes* are permitted shows when one is made.
What neither can tell is not judged.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar
from uuid import UUID

from hvdrivers.cli.output import size
from hvdrivers.cli.verdict import Check, Status, failed
from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability
from hvdrivers.models.state import InstanceState

if TYPE_CHECKING:
    from hvdrivers.contract.driver import ComputeDriver
    from hvdrivers.models.instance import InstanceSummary

_T = TypeVar("_T")
_FULL = 0.9  # of a pool: the next image may not fit
_SLOW = 1.0  # seconds for one round trip
_CLOCK_DRIFT = 60.0  # seconds; certificates and tickets begin to fail at a few minutes
_LOOKED_AT = 10  # instances whose creation time is compared: a sample, not a call for each
_ROOT_DISK = re.compile(r"(?P<uuid>[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})-root(?:\..*)?")


def look(driver: ComputeDriver, timeout: float | None) -> Iterator[Check]:
    """Every check of a connected host, in an order in which the first failure explains others."""
    yield from _answer(driver, timeout)
    yield from _versions(driver, timeout)
    instances: list[InstanceSummary] = []
    yield from _permissions(driver, timeout, instances)
    yield from _resources(driver, timeout)
    yield _wiring(driver, "networks", "vif-")
    yield _wiring(driver, "images", "image-", but={Capability.IMAGE_CACHE, Capability.IMAGE_HOST})
    yield _instances(instances)
    yield from _left_overs(driver, timeout, instances)
    yield from _partial_uploads(driver, timeout)
    yield _clock(driver, timeout, instances)
    yield from _maintenance(driver, timeout)
    yield from _host_checks(driver, timeout)


def _tried(name: str, call: Callable[[], Iterable[Check]]) -> Iterator[Check]:
    try:
        yield from call()
    except errors.NotSupported as error:
        yield Check(name, Status.SKIP, error.message)
    except errors.HypervisorError as error:
        yield failed(name, error)


def _answer(driver: ComputeDriver, timeout: float | None) -> Iterator[Check]:
    def look() -> Iterator[Check]:
        began = time.monotonic()
        driver.ping(timeout=timeout)
        took = time.monotonic() - began
        if took > _SLOW:
            hint = "every operation pays for each round trip: run closer to the host"
            yield Check("answer", Status.WARN, f"one round trip takes {took:.1f} s", hint)
        else:
            yield Check("answer", Status.OK, f"one round trip takes {took * 1000:.0f} ms")

    return _tried("answer", look)


def _versions(driver: ComputeDriver, timeout: float | None) -> Iterator[Check]:
    def look() -> Iterator[Check]:
        host = driver.host(timeout=timeout)
        yield Check(
            "version",
            Status.OK,
            f"{host.product} {host.product_version}, API {host.api_version},"
            f" {host.architecture}, {host.hostname}",
        )
        if host.accelerated is None:
            yield Check("acceleration", Status.SKIP, "no guest runs on a processor here")
        elif host.accelerated:
            yield Check("acceleration", Status.OK, "guests run on the CPU's own virtualisation")
        else:
            yield Check(
                "acceleration",
                Status.WARN,
                "guests are emulated, and many times slower",
                "switch on VT-x or AMD-V in the firmware (nested, if the host is virtual itself),"
                " and let the hypervisor use it (/dev/kvm on Linux)",
            )

    return _tried("version", look)


def _permissions(
    driver: ComputeDriver, timeout: float | None, instances: list[InstanceSummary]
) -> Iterator[Check]:
    reads: Sequence[tuple[str, Callable[[], object]]] = (
        ("instances", lambda: instances.extend(driver.list_instances(timeout=timeout))),
        ("foreign machines", lambda: driver.list_foreign(timeout=timeout)),
        ("metrics", lambda: driver.get_metrics(timeout=timeout)),
        ("storage connector", lambda: driver.get_volume_connector(timeout=timeout)),
    )
    bad: list[errors.HypervisorError] = []
    for _, read in reads:
        try:
            read()
        except errors.HypervisorError as error:
            bad.append(error)
    if bad:
        return iter([failed("permissions", error) for error in bad])
    what = ", ".join(name for name, _ in reads)
    return iter([Check("permissions", Status.OK, f"may read {what}; changes are not tried")])


def _resources(driver: ComputeDriver, timeout: float | None) -> Iterator[Check]:
    def look() -> Iterator[Check]:
        found = driver.get_available_resource(timeout=timeout)
        cpu, memory = found.cpu, found.memory
        free = memory.total_mib - memory.used_mib
        yield Check(
            "capacity",
            Status.OK if free > 0 else Status.WARN,
            f"{cpu.total} CPU threads, {cpu.used} in use; {memory.total_mib} MiB memory,"
            f" {free} not assigned",
            None if free > 0 else "destroy or move instances, or add memory",
        )
        if not found.storage:
            hint = "make a storage pool, or name an existing one in the driver's configuration"
            yield Check("storage", Status.FAIL, "there is no pool to put disks in", hint)
        for pool in found.storage:
            full = pool.used_gib >= _FULL * pool.total_gib
            yield Check(
                f"storage {pool.name}",
                Status.WARN if full else Status.OK,
                f"{pool.used_gib:.1f} of {pool.total_gib:.1f} GiB in use",
                "make room: hvdrivers image list HOST, hvdrivers volume list HOST"
                if full
                else None,
            )

    return _tried("capacity", look)


def _wiring(
    driver: ComputeDriver, name: str, prefix: str, but: Iterable[Capability] = (Capability.VIF_QOS,)
) -> Check:
    kinds = sorted(
        each.removeprefix(prefix)
        for each in driver.capabilities
        if each.startswith(prefix) and each not in but
    )
    if not kinds:
        return Check(name, Status.WARN, "the driver takes none", "hvdrivers capabilities HOST")
    return Check(name, Status.OK, f"the driver takes {', '.join(kinds)}")


def _instances(instances: Sequence[InstanceSummary]) -> Check:
    stuck = [each for each in instances if each.state is InstanceState.BUILDING]
    crashed = [each for each in instances if each.state is InstanceState.CRASHED]
    if stuck:
        return Check(
            "instances",
            Status.WARN,
            "being built, or left by an interrupted spawn: "
            + ", ".join(str(each.uuid) for each in stuck),
            "if nobody is spawning them: hvdrivers destroy HOST UUID",
        )
    if crashed:
        return Check(
            "instances",
            Status.WARN,
            "crashed: " + ", ".join(str(each.uuid) for each in crashed),
            "hvdrivers console-log HOST UUID; then power on",
        )
    return Check("instances", Status.OK, f"{len(instances)}, none of them stuck or crashed")


def _left_overs(
    driver: ComputeDriver, timeout: float | None, instances: Sequence[InstanceSummary]
) -> Iterator[Check]:
    def look() -> Iterator[Check]:
        volumes = driver.list_volumes(timeout=timeout)
        there = {each.uuid for each in instances}
        kept = [
            volume.volume_id
            for volume in volumes
            if (match := _ROOT_DISK.fullmatch(volume.name)) and UUID(match["uuid"]) not in there
        ]
        if kept:
            yield Check(
                "left-overs",
                Status.WARN,
                "root disks of instances that are gone: " + ", ".join(kept),
                "if nobody needs them: hvdrivers volume delete HOST VOLUME",
            )
        else:
            yield Check("left-overs", Status.OK, f"none among {len(volumes)} volumes")

    return _tried("left-overs", look)


def _partial_uploads(driver: ComputeDriver, timeout: float | None) -> Iterator[Check]:
    def look() -> Iterator[Check]:
        found = driver.list_cached_images(timeout=timeout)
        partial = [each for each in found if each.partial]
        if not partial:
            yield Check("image cache", Status.OK, f"{len(found)} images, all complete")
            return
        taken = size(sum(each.size_bytes for each in partial))
        names = ", ".join(each.key for each in partial)
        yield Check(
            "image cache",
            Status.WARN,
            f"partial uploads, under way or left by clients that died, take {taken}: {names}",
            "hvdrivers image reap HOST removes those that nobody writes to",
        )

    return _tried("image cache", look)


def _clock(
    driver: ComputeDriver, timeout: float | None, instances: Sequence[InstanceSummary]
) -> Check:
    newest: datetime | None = None
    try:
        for each in instances[:_LOOKED_AT]:
            created = driver.get_instance(each.uuid, timeout=timeout).created_at
            if created is not None and (newest is None or created > newest):
                newest = created
    except errors.HypervisorError:
        pass  # gone in the meantime, or already reported
    if newest is None:
        return Check("clock", Status.SKIP, "no instance tells the host's time")
    ahead = (newest - datetime.now(UTC)).total_seconds()
    if ahead > _CLOCK_DRIFT:
        return Check(
            "clock",
            Status.WARN,
            f"an instance was made {ahead:.0f} s from now: the host's clock, or this one, is wrong",
            "synchronise both by NTP",
        )
    return Check("clock", Status.OK, "no instance was made in the future")


def _maintenance(driver: ComputeDriver, timeout: float | None) -> Iterator[Check]:
    def look() -> Iterator[Check]:
        if driver.in_maintenance(timeout=timeout):
            hint = "hvdrivers maintenance off HOST"
            yield Check("service", Status.WARN, "in maintenance: it starts no instance", hint)
        else:
            yield Check("service", Status.OK, "not in maintenance")

    return _tried("service", look)


def _host_checks(driver: ComputeDriver, timeout: float | None) -> Iterator[Check]:
    """What the driver itself knows of hosts of its kind."""

    def look() -> Iterator[Check]:
        for each in driver.host_checks(timeout=timeout):
            yield Check(each.name, Status(each.status), each.detail, each.hint)

    return _tried("host", look)
