"""The conformance suite against real guests, in two files so that two processes share it.

``make test-whole`` runs it whole, and so does what makes docs/reports/libvirt.json. On Open
vSwitch: limits of a NIC on a Linux bridge need the kernel's sfq, which not every test machine has.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hvdrivers.conformance.engine.clauses import Check, Level
from hvdrivers.conformance.engine.report import GOOD, Status
from hvdrivers.conformance.engine.runner import Session
from hvdrivers.contract.capabilities import Capability
from hvdrivers.contract.driver import OPERATIONS
from hvdrivers.libvirt.conformance.target import LibvirtTarget
from hvdrivers.models.image import FileImage, ImageFormat
from tests.integration.part_of_suite import SEED
from tests.peers.libvirtd import LibvirtPeer

FULL = dict.fromkeys(
    (
        "IMG-005/no_room_for_an_image",
        "POWER-019/no_room_for_its_memory",
        "LIFE-023/no_room_for_a_disk[spawn]",
        "RESIZE-008/no_room_for_a_disk[resize]",
        "RESIZE-012/grows_into_what_is_left",
        "REBUILD-008/no_room_for_a_disk[rebuild]",
        "RESCUE-007/no_room_for_a_disk[rescue]",
        "SNAP-014/no_room_for_a_snapshot",
        "STOR-062/full_destination_is_refused",
        "STOR-064/lives_where_it_was_moved[resize]",
        "STOR-064/lives_where_it_was_moved[rebuild]",
        "STOR-066/disks_that_are_there_need_no_room",
    ),
    "nobody fills the disk of the test machine: test_conformance_full.py has a small host",
)
"""Checks of pools that are full."""

NEVER_FULL = dict.fromkeys(
    ("RESIZE-008/no_room_for_a_disk[resize]", "STOR-064/lives_where_it_was_moved[resize]"),
    "a disk grows on a full pool, and takes its room when it is written to",
)
"""Those of them that a small host cannot be brought to try either."""

UNTRIED = FULL | {
    **dict.fromkeys(
        (
            "SRIOV-001/has_a_function[spawn]",
            "SRIOV-001/has_a_function[plug]",
            "SRIOV-002/stays_where_functions_are",
        ),
        "the test machine has no adapter with functions: see test_network_functions.py",
    ),
    "STOR-053/no_room_is_refused": "volumes take no room before they are written to",
    "LIFE-021/more_than_there_are_slots[volumes]": "libvirt makes a slot for each",
    "LIFE-021/more_than_there_are_slots[vifs]": "nor here",
    "GUEST-003/account_is_asked_for": "QEMU's agent asks for no account",
    "GUEST-003/account_is_asked_for_by_exec": "nor here",
    **{
        f"{check}[{kind}]": "the host of this run reaches no storage server"
        for check in (
            "STOR-076/is_a_volume_as_any",
            "STOR-077/grows_at_its_server",
            "MOVE-009/secrets_go_along",
        )
        for kind in ("iscsi", "rbd", "nfs")
    },
    "MIGR-025/has_no_room_there": "nor here",
    "MIGR-027/destination_dies_on_the_way": "the target knows hosts by their URI alone",
    "EVENT-015/tells_of_a_refusal": "a guest of QEMU cannot say no: it lets go, or it does not",
}
"""Checks of SHOULD clauses that the host cannot be brought to try."""

DECLINED = {
    "EVENT-017/tells_the_switch_over": "libvirt tells of the end of a migration alone",
    "HOTCPU-004/shrinks_while_it_runs[vcpus]": "what a running machine got, it keeps",
    "HOTMEMORY-005/shrinks_while_it_runs[memory]": "nor here",
    "METR-010/volumes_are_named": "libvirt's statistics name a disk by its device in the guest",
    "MIGR-021/moves_with_its_volume": "a volume in a pool of one host stays there, and says so",
    "MIGR-022/moves_with_its_snapshots": "libvirt carries none along: it is a blocker",
    "RESIZE-007/grows_with_snapshots": "QEMU 7.2 grows no disk that has internal snapshots",
    "NET-008/address_of_another_is_refused": "libvirt tells MAC addresses of each machine apart",
}
"""Checks of MAY clauses of what the driver does not do."""


_MOVING = {
    Capability.LIVE_MIGRATION,
    Capability.LIVE_MIGRATION_ABORT,
    Capability.LIVE_MIGRATION_FORCE,
    Capability.COLD_MIGRATION,
    Capability.MOVE_IN_STEPS,
}


def moves(check: Check) -> bool:
    """Whether the check needs other hosts; a file of its own has them."""
    operation = OPERATIONS.get(check.clause.operation or "")
    needs = check.needs | check.clause.needs
    needs |= {operation.capability} if operation is not None else set()
    return check.clause.id.startswith("MIGR-") or bool(needs & _MOVING)


@contextmanager
def other_hosts(bridge: str) -> Iterator[dict[str, str]]:
    """Options of the target: a host to move to, which has a bridge of the same name, and one that
    takes no machine."""
    with LibvirtPeer(network=True) as fit, LibvirtPeer(network=True) as unfit:
        fit.add_bridge(bridge)
        folder = "/var/lib/libvirt/tiny"
        unfit.inside("mkdir", folder)
        with unfit.small(folder, 1 << 20):
            unfit.virsh("pool-define-as", "tiny", "dir", "--target", folder)
            unfit.virsh("pool-start", "tiny")
            yield {
                "destination": fit.uri,
                "address": str(fit.address),
                "shared_bridge": bridge,
                "unfit": unfit.uri,
                "unfit_pool": "tiny",
            }


@contextmanager
def running(peer: LibvirtPeer, image: Path, folder: Path, **options: str) -> Iterator[Session]:
    """A session of the suite on a host with real guests.

    Args:
        options: of its target.
    """
    target = LibvirtTarget(
        image=FileImage(path=image, format=ImageFormat.QCOW2),
        uri=peer.uri,
        virt_type="qemu",
        host_root=peer.host_root,
        **options,
    )
    with Session(target, journal=folder / "journal", seed=SEED) as made:
        yield made


def passes(session: Session, check: Check) -> None:
    """The check ends as it should on this host."""
    result = session.run_check(check)
    if check.id in UNTRIED:
        assert check.clause.level is Level.SHOULD
        assert result.status is Status.PRECONDITION_MISSING, result.message
    else:
        assert (result.status is Status.DECLINED) is (check.id in DECLINED), result.message
        assert result.status in GOOD, f"{result.status}: {result.message}\n{result.detail}"
