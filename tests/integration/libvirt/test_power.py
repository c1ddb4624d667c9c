"""Power, in every state into which libvirt can be brought."""

from __future__ import annotations

import io
import itertools
import os
import signal
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from uuid import UUID
from xml.etree import ElementTree as ET

import pytest
from libvirt import VIR_DOMAIN_EVENT_RESUMED

from hvdrivers import connect
from hvdrivers.contract import errors
from hvdrivers.contract.driver import ComputeDriver, state_table
from hvdrivers.contract.power import RebootKind
from hvdrivers.contract.states import End
from hvdrivers.libvirt.event_hub import Lifecycle
from hvdrivers.models.state import InstanceState
from hvdrivers.testing.guestimage import cache_folder
from hvdrivers.testing.guestimage.inputs import find_kernel
from tests.integration.libvirt.faults import after, script
from tests.integration.libvirt.machines import Host, Machine, local, told
from tests.peers.libvirtd import LibvirtPeer
from tests.peers.starting import held_start
from tests.peers.waiting import wait_until

S = InstanceState

OPERATIONS: dict[str, Callable[[ComputeDriver, Machine], object]] = {
    "power_on": lambda driver, machine: driver.power_on(machine.uuid),
    "power_off": lambda driver, machine: driver.power_off(machine.uuid),
    "reboot": lambda driver, machine: driver.reboot(machine.uuid),
    "pause": lambda driver, machine: driver.pause(machine.uuid),
    "unpause": lambda driver, machine: driver.unpause(machine.uuid),
    "start_paused": lambda driver, machine: driver.start_paused(machine.uuid),
    "suspend": lambda driver, machine: driver.suspend(machine.uuid),
    "resume": lambda driver, machine: driver.resume(machine.uuid),
    "inject_nmi": lambda driver, machine: driver.inject_nmi(machine.uuid),
    "set_metadata": lambda driver, machine: driver.set_metadata(machine.uuid, {"state": "any"}),
    "get_console_log": lambda driver, machine: driver.get_console_log(machine.uuid),
    "get_instance": lambda driver, machine: driver.get_instance(machine.uuid),
}


def let_run(machine: Machine) -> None:
    """Let it run, from any state."""
    driver = machine.host.driver
    (driver.unpause if machine.state is S.PAUSED else driver.power_on)(machine.uuid)


def kill(machine: Machine) -> None:
    """Let QEMU itself die."""
    os.kill(machine.host.peer.qemu_pid(str(machine.uuid)), signal.SIGKILL)
    wait_until(lambda: machine.info.state is S.CRASHED, timeout=120, what="the machine is crashed")


BRING: dict[InstanceState, Callable[[Machine], None]] = {
    S.RUNNING: let_run,
    S.PAUSED: lambda machine: machine.host.driver.pause(machine.uuid),
    S.SUSPENDED: lambda machine: machine.host.driver.suspend(machine.uuid),
    S.STOPPED: lambda machine: machine.host.driver.power_off(machine.uuid),
    S.CRASHED: kill,
}


def pvpanic() -> bytes:
    """The kernel's driver for libvirt's panic device, as a tar archive: the guest's initramfs has
    only what every test needs."""
    kernel = find_kernel(cache_folder())
    assert kernel is not None
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name in ("pvpanic", "pvpanic-mmio"):
            content = kernel.read_module(name.replace("-", "_"))
            member = tarfile.TarInfo(f"{name}.ko")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return packed.getvalue()


@pytest.fixture(scope="module")
def empty(host: Host) -> Iterator[Machine]:
    """A machine without an operating system, brought from state to state."""
    with host.empty_machine(name="table") as made:
        yield made


@pytest.mark.parametrize("before", [S.RUNNING, S.PAUSED, S.SUSPENDED, S.STOPPED, S.CRASHED])
def test_state_table(host: Host, empty: Machine, before: InstanceState) -> None:
    """Every pair of state and operation: it ends where the contract says, or is refused and
    changes nothing. (Soft reboot needs a guest; BUILDING lasts too short; RESCUED is no state
    of a driver without rescue.)"""
    table = state_table()
    for name, call in OPERATIONS.items():
        if empty.state is not before:
            let_run(empty)
            BRING[before](empty)
        assert empty.state is before, name
        outcome = table[name][before]
        if outcome.legal:
            call(host.driver, empty)
            end = outcome.after(before)
            assert end is not End.DEPENDS
            assert empty.state is end, name
        else:
            with pytest.raises(errors.InvalidState) as refused:
                call(host.driver, empty)
            assert refused.value.hint
            assert empty.state is before, name
    if not table["reboot[soft]"][before].legal:
        with pytest.raises(errors.InvalidState):
            host.driver.reboot(empty.uuid, RebootKind.SOFT)
        assert empty.state is before


def test_metadata_is_kept_through_every_state(host: Host, empty: Machine) -> None:
    """What is written in one state is read in all later ones, memory saved or not."""
    driver = host.driver
    driver.power_off(empty.uuid)
    for number, (state, change) in enumerate(
        (
            (S.STOPPED, lambda: None),
            (S.RUNNING, lambda: driver.power_on(empty.uuid)),
            (S.PAUSED, lambda: driver.pause(empty.uuid)),
            (S.SUSPENDED, lambda: driver.suspend(empty.uuid)),
            (S.RUNNING, lambda: driver.resume(empty.uuid)),
            (S.CRASHED, lambda: kill(empty)),
            (S.RUNNING, lambda: driver.power_on(empty.uuid)),
            (S.STOPPED, lambda: driver.power_off(empty.uuid)),
        )
    ):
        change()
        assert empty.state is state
        if number:
            assert empty.info.metadata == {"step": str(number - 1)}
        driver.set_metadata(empty.uuid, {"step": str(number)})
        assert empty.info.metadata == {"step": str(number)}


def test_a_guest_that_ignores_the_button(host: Host, empty: Machine) -> None:
    """The power is cut after the grace that it was given, or at the deadline."""
    for graceful, timeout in ((2.0, None), (60.0, 2.0)):
        host.driver.power_on(empty.uuid)
        began = time.monotonic()
        host.driver.power_off(empty.uuid, graceful=graceful, timeout=timeout)
        assert empty.state is S.STOPPED
        assert 1.9 < time.monotonic() - began < 45  # not the grace of a minute
    host.driver.power_on(empty.uuid)
    with pytest.raises(errors.DeviceBusy) as busy:
        host.driver.reboot(empty.uuid, RebootKind.SOFT, timeout=2)
    assert busy.value.retryable
    assert empty.state is S.RUNNING


def test_what_is_wired_to_has_gone(host: Host) -> None:
    """power_on() says what is missing, and leaves the machine as it was."""
    driver = host.driver
    with host.unchanged(), host.empty_machine(start=False) as machine:
        root = host.peer.path(host.raw.pools.disk_path(f"{machine.uuid}.root"))
        hidden = root.with_name("hidden")
        root.rename(hidden)
        with pytest.raises(errors.VolumeNotFound):
            driver.power_on(machine.uuid)
        assert machine.state is S.STOPPED
        hidden.rename(root)
        driver.power_on(machine.uuid)
        assert machine.state is S.RUNNING


def test_a_guest_through_its_day(host: Host, machine: Machine) -> None:
    """One guest: soft reboot, pause, suspend, sleep, panic, and a graceful end."""
    driver, console = host.driver, machine.console

    said = machine.said()
    driver.reboot(machine.uuid, RebootKind.SOFT)
    console.expect("power button", after=said)
    machine.booted(said)
    boots = [line for line in console.lines() if line.startswith("boot number")]
    assert len(boots) == 2

    driver.pause(machine.uuid)
    driver.pause(machine.uuid)
    said = machine.said()
    driver.unpause(machine.uuid)
    console.expect("tick", after=said)

    # from disk it continues where it was: it does not boot again
    for suspended_from in (S.RUNNING, S.PAUSED):
        if suspended_from is S.PAUSED:
            driver.pause(machine.uuid)
        driver.suspend(machine.uuid)
        assert machine.state is S.SUSPENDED
        said = machine.said()
        driver.resume(machine.uuid)
        assert machine.state is S.RUNNING
        console.expect("tick", after=said)
    assert [line for line in console.lines() if line.startswith("boot number")] == boots

    # a suspended machine that is powered off has lost its memory, and boots
    driver.suspend(machine.uuid)
    driver.power_off(machine.uuid)
    assert machine.state is S.STOPPED
    said = machine.said()
    driver.power_on(machine.uuid)
    machine.booted(said)

    # a panic, as the kernel's pvpanic driver tells it: the machine is kept as it was
    with host.file(pvpanic()) as path:
        machine.attach(local(path, "modules"))
        disk = machine.sees("modules")
        machine.run(f"mkdir -p /run/m; tar xf /dev/{disk} -C /run/m")
        machine.run("insmod /run/m/pvpanic.ko && insmod /run/m/pvpanic-mmio.ko")
        driver.detach_volume(machine.uuid, "modules")
    machine.type("echo c >/proc/sysrq-trigger")
    wait_until(lambda: machine.info.state is S.CRASHED, timeout=120, what="the panic is seen")
    driver.set_metadata(machine.uuid, {"what": "panic"})
    assert machine.info.metadata == {"what": "panic"}
    said = machine.said()
    driver.power_on(machine.uuid)
    assert machine.state is S.RUNNING
    assert machine.info.metadata == {"what": "panic"}
    machine.booted(said)

    # the guest puts itself to sleep (ACPI S3): that is PAUSED; reboot() and unpause() wake it
    for wake in (driver.reboot, driver.unpause):
        machine.type("echo mem >/sys/power/state; echo hv-guest: woke")
        wait_until(lambda: machine.info.state is S.PAUSED, timeout=120, what="the guest sleeps")
        said = machine.said()
        wake(machine.uuid)
        assert machine.state is S.RUNNING
        if wake == driver.reboot:
            machine.booted(said)
        else:
            console.expect("woke", after=said)

    kill(machine)
    said = machine.said()
    driver.reboot(machine.uuid)
    assert machine.state is S.RUNNING
    machine.booted(said)

    said = machine.said()
    driver.power_off(machine.uuid, graceful=60)
    console.expect("power button", after=said)
    assert machine.state is S.STOPPED
    assert "reboot: Power down" in console.text()


def test_states_outlive_the_daemon(guest_image: Path) -> None:
    """The daemon is killed and comes back: every state is what it was."""
    with LibvirtPeer() as peer:
        own = Host(peer, guest_image)
        try:
            machines = {
                state: own.made(own.empty(name=state))
                for state in (S.RUNNING, S.PAUSED, S.SUSPENDED, S.STOPPED)
            }
            for state, each in machines.items():
                BRING[state](each)
            dropped = own.made(own.empty(name="dropped"))
            own.driver.suspend(dropped.uuid)
            own.driver.power_off(dropped.uuid)
            peer.kill()
            peer.start()
            for state, each in machines.items():
                assert each.state is state
            assert dropped.state is S.STOPPED
            own.driver.resume(machines[S.SUSPENDED].uuid)
            assert machines[S.SUSPENDED].state is S.RUNNING
            for each in (*machines.values(), dropped):
                own.driver.destroy(each.uuid)
        finally:
            own.close()


def _no_log_daemon(own: Host, uuid: str) -> None:
    """The daemon that keeps console logs is away: libvirt's reason is "failed"."""
    del uuid
    own.peer.kill_virtlogd()


def _qemu_killed(own: Host, uuid: str) -> None:
    """QEMU dies while it starts."""
    with held_start(own.peer, uuid, lambda: own.peer.virsh("start", uuid)) as resuming:
        resuming.kill()


def _daemon_killed(own: Host, uuid: str) -> None:
    """The daemon dies while it starts QEMU, and comes back: its reason is "daemon"."""
    with held_start(own.peer, uuid, lambda: own.peer.virsh("start", uuid)) as resuming:
        own.peer.kill()
        resuming.kill()
    own.peer.start()


@pytest.mark.parametrize("breaks", [_no_log_daemon, _qemu_killed, _daemon_killed])
def test_a_resume_that_failed(guest_image: Path, breaks: Callable[[Host, str], None]) -> None:
    """The memory is still saved, so the machine is SUSPENDED, whatever reason libvirt has for its
    being off: what such a machine must not do is refused, and power_off() drops the memory."""
    with LibvirtPeer() as peer, closing(Host(peer, guest_image)) as own:
        driver = own.driver
        with own.volume() as volume, own.empty_machine() as machine:
            driver.suspend(machine.uuid)
            breaks(own, str(machine.uuid))
            if breaks is _no_log_daemon:
                with pytest.raises(errors.HypervisorError):
                    driver.resume(machine.uuid)
                peer.start()
            assert machine.state is S.SUSPENDED
            with pytest.raises(errors.InvalidState):
                machine.attach(volume)
            driver.set_metadata(machine.uuid, {"kept": "yes"})
            driver.resume(machine.uuid)
            assert machine.state is S.RUNNING
            assert machine.info.metadata == {"kept": "yes"}
            driver.suspend(machine.uuid)
            breaks(own, str(machine.uuid))
            peer.start()
            driver.power_off(machine.uuid)
            assert machine.state is S.STOPPED
            assert peer.virsh("list", "--all", "--with-managed-save", "--name").split() == []


@pytest.fixture
def with_old_memory(guest_image: Path) -> Iterator[Machine]:
    """A machine that was resumed, and whose saved memory libvirt could not remove. A daemon that
    dies before it has removed it leaves it as well; QEMU may die with it then."""
    with (
        LibvirtPeer() as peer,
        closing(Host(peer, guest_image)) as own,
        own.empty_machine() as machine,
    ):
        own.driver.suspend(machine.uuid)
        (image,) = peer.root.rglob("*.save")
        peer.inside("mount", "--bind", str(image), str(image))
        try:
            own.driver.resume(machine.uuid)
        finally:
            peer.inside("umount", str(image))
        assert image.exists()
        assert machine.state is S.RUNNING
        yield machine


@pytest.mark.parametrize(
    ("ends", "after_it"),
    [
        (lambda driver, uuid: driver.power_off(uuid), S.STOPPED),
        (lambda driver, uuid: driver.rescue(uuid), S.RESCUED),
        (lambda driver, uuid: driver.resume(uuid), S.RUNNING),
        (lambda driver, uuid: driver.power_on(uuid), S.RUNNING),
    ],
)
def test_old_memory_is_never_brought_back(
    with_old_memory: Machine,
    ends: Callable[[ComputeDriver, UUID], object],
    after_it: InstanceState,
) -> None:
    """Libvirt brings saved memory back at the next start. The guest has written to its disks since
    it was saved, and would go on with what it knew of them before."""
    machine = with_old_memory
    ends(machine.host.driver, machine.uuid)
    assert machine.state is after_it
    assert not list(machine.host.peer.root.rglob("*.save"))


@pytest.mark.parametrize(
    ("operation", "begins", "before", "ends"),
    [
        ("resume", S.PAUSED, S.SUSPENDED, S.RUNNING),
        ("power_off", S.CRASHED, S.CRASHED, S.STOPPED),
    ],
)
def test_no_state_between(
    host: Host,
    empty: Machine,
    operation: str,
    begins: InstanceState,
    before: InstanceState,
    ends: InstanceState,
) -> None:
    """Whichever reply is lost, the machine is as before or as after, by every read; the same call
    comes to the end, which the stream of another connection shows.

    A machine that was paused before it was suspended came back paused, and the call that let it run
    was another one; a crash was forgotten by a start and a stop."""
    definition = ET.tostring(empty.xml(inactive=True))
    call = getattr(host.driver, operation)
    with connect("libvirt", uri=host.peer.uri, virt_type="qemu") as other, other.watch() as stream:
        for number in itertools.count():
            if empty.state is not begins:
                let_run(empty)
                BRING[begins](empty)
            if begins is S.PAUSED:
                host.driver.suspend(empty.uuid)
            with script(host.raw, number, after(host.raw, host.peer)) as seam:
                try:
                    call(empty.uuid)
                except (errors.OutcomeUnknown, errors.ConnectionFailed):
                    assert empty.state in {before, ends}, seam.calls
                    call(empty.uuid)
            assert empty.state is ends, seam.calls
            assert ET.tostring(empty.xml(inactive=True)) == definition
            told(stream, empty.uuid, ends, quiet=0.1)
            if not seam.reached:
                break
    assert number >= 6


def test_a_resume_shows_what_was_or_what_is(host: Host, empty: Machine) -> None:
    """While QEMU reads the saved memory libvirt says that the machine is paused for a migration."""
    if empty.state is not S.RUNNING:
        let_run(empty)
    seen: list[InstanceState] = []
    done = threading.Event()

    def look(driver: ComputeDriver) -> None:
        while not done.is_set():
            seen.append(driver.get_instance(empty.uuid).state)
            listed = {each.uuid: each.state for each in driver.list_instances()}
            seen.append(listed[empty.uuid])

    with connect("libvirt", uri=host.peer.uri, virt_type="qemu") as other:
        for _ in range(3):
            host.driver.suspend(empty.uuid)
            done.clear()
            with ThreadPoolExecutor(1) as pool:
                looking = pool.submit(look, other)
                try:
                    host.driver.resume(empty.uuid)
                finally:
                    done.set()
                looking.result(60)
    assert set(seen) <= {S.SUSPENDED, S.RUNNING}, seen


def test_no_room_to_save(guest_image: Path) -> None:
    """A machine that cannot be saved is what it was: a paused one does not run for a moment."""
    with LibvirtPeer() as peer, closing(Host(peer, guest_image)) as own:
        if not peer.privileged:
            pytest.skip("precondition missing: root, to mount a small file system")
        with own.empty_machine() as machine:
            for state in (S.RUNNING, S.PAUSED):
                BRING[state](machine)
                with (
                    peer.small("/var/lib/libvirt/qemu/save", 65536),
                    own.raw.hub.listening() as events,
                    pytest.raises(errors.InsufficientResources) as full,
                ):
                    own.driver.suspend(machine.uuid)
                assert full.value.hint
                assert machine.state is state
                ran = [
                    each
                    for each in iter(lambda: events.wait(lambda _: True, 0), None)
                    if isinstance(each, Lifecycle) and each.event == VIR_DOMAIN_EVENT_RESUMED
                ]
                assert bool(ran) is (state is S.RUNNING)
            assert "hv-room" not in peer.virsh("pool-list", "--all")
            own.driver.unpause(machine.uuid)
            own.driver.pause(machine.uuid)
            own.driver.suspend(machine.uuid)
            own.driver.resume(machine.uuid)
            assert machine.state is S.RUNNING
