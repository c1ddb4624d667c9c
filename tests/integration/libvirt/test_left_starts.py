"""A daemon that was killed after it had written down that it starts a machine, and before QEMU.

libvirt 9.0 never comes to an end with such a start, also when the daemon is started again. What it
writes down then was recorded from a daemon that was killed at many moments of a start.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from hvdrivers.contract import errors
from hvdrivers.models.state import InstanceState
from tests.peers.libvirtd import LibvirtPeer

from .machines import Host, Machine

JOB = "<job type='none' async='start' flags='0x1' asyncStarted='1795990231245'/>"


@pytest.fixture
def own(guest_image: Path) -> Iterator[Host]:
    with LibvirtPeer() as peer, closing(Host(peer, guest_image)) as made:
        yield made


def left_in_its_start(own: Host, machine: Machine, *, defined: bool) -> Path:
    """Bring a machine that runs there. Returns the file that says so."""
    peer = own.peer
    (name,) = peer.virsh("list", "--name").split()
    file = peer.folder("run") / "qemu" / f"{name}.xml"
    of_a_run = file.read_text()
    if not defined:
        peer.virsh("undefine", "--keep-nvram", str(machine.uuid))
    peer.virsh("destroy", str(machine.uuid))
    peer.kill()
    text = of_a_run
    for of_the_run, of_the_start in (
        ("<domstatus [^>]*>", "<domstatus state='paused' reason='starting up' pid='0'>"),
        ("</qemuCaps>", f"</qemuCaps>{JOB}"),
    ):
        text, count = re.subn(of_the_run, of_the_start, text)
        assert count == 1
    assert text.count("<job ") == 1
    file.write_text(text)
    peer.start()
    return file


@pytest.mark.parametrize("defined", [True, False], ids=["defined", "of-a-spawn"])
def test_what_helps_stands_in_the_hint(own: Host, defined: bool) -> None:
    driver, peer = own.driver, own.peer
    machine = own.made(own.empty(name="left"))
    driver.power_on(machine.uuid)
    file = left_in_its_start(own, machine, defined=defined)
    peer.restart()  # alone it does not help
    state = InstanceState.STOPPED if defined else InstanceState.BUILDING
    assert driver.get_instance(machine.uuid).state is state
    call = partial(driver.power_off, timeout=3) if defined else driver.destroy
    with pytest.raises(errors.DeviceBusy) as told:
        call(machine.uuid)
    hint = told.value.hint or ""
    assert (file.name if defined else "NAME.xml") in hint
    assert "/run/libvirt/qemu" in hint
    peer.stop()
    file.unlink()
    peer.start()
    if defined:
        driver.power_on(machine.uuid)
        assert machine.state is InstanceState.RUNNING
    driver.destroy(machine.uuid)
    with pytest.raises(errors.InstanceNotFound):
        driver.get_instance(machine.uuid)
