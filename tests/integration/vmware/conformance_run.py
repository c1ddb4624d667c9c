"""The conformance suite on the simulator: one run in each mode, a file for each, so that they run
beside each other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from hvdrivers.conformance.engine.clauses import Check, Level
from hvdrivers.conformance.engine.report import GOOD, Status
from hvdrivers.conformance.engine.runner import Session
from hvdrivers.vmware.conformance.target import VmwareTarget
from tests.integration.part_of_suite import SEED, ends_well
from tests.peers.fixtures import started
from tests.peers.vcsim import GUEST_PASSWORD, GUEST_USER, VcsimPeer
from tests.peers.vcsim.array import VcsimArray

UNTRIED = (
    "a volume takes no room before it is written to",
    "the target's second host does not die (dead_host)",
    "the host has no device in parts that is set aside for guests",
    "the driver gives no machine NUMA nodes and CPUs that are added",
    "a cluster of several hosts gives no virtual functions",
)
"""What the simulator cannot be brought to show, in the words of the suite and the target: its
datastores are never full, its hosts do not die, and its administrator lets a GPU be had whole or in
slices. The driver refuses NUMA nodes of a machine to which CPUs are added, and virtual functions in
a cluster of several hosts. Only SHOULD clauses need
it."""


class Run:
    """One run of the suite, check by check."""

    def __init__(self, session: Session, peer: VcsimPeer) -> None:
        self._session = session
        self._peer = peer

    def passes(self, check: Check) -> None:
        """Try one check."""
        result = self._session.run_check(check)
        self._peer.require_alive()
        if result.status is Status.PRECONDITION_MISSING and result.message in UNTRIED:
            assert check.clause.level is Level.SHOULD
        else:
            assert result.status in GOOD, f"{result.status}: {result.message}\n{result.detail}"

    def ends_well(self) -> None:
        """What all the checks together come to."""
        ends_well(self._session)


class SimulatedTarget(VmwareTarget):
    """A simulator and the target on it. Of each change a few calls are cut: a spawn makes a dozen
    calls, and each pair of them would be cut; ``hvdrivers conformance run vmware`` tries all."""

    makes_host = True

    def __init__(self, mode: str) -> None:
        vcenter = mode == "vpx"
        flags = {"standalone": 2} if vcenter else {}
        other, unfit = ("DC0_H0", "DC0_H1") if vcenter else (None, None)
        with ExitStack() as stack:
            peer = stack.enter_context(started(lambda: VcsimPeer(mode, **flags)))
            super().__init__(
                **peer.options,
                other=other,
                unfit=unfit,
                guest_user=GUEST_USER,
                guest_password=GUEST_PASSWORD,
                wake=lambda: peer.ask("/up", "POST"),  # host_power() has switched it off
                array=VcsimArray(peer),
                thorough=False,
            )
            self.peer = peer
            self._simulator = stack.pop_all()

    def close(self) -> None:
        with self._simulator:
            super().close()


@contextmanager
def running(mode: str, folder: Path) -> Iterator[Run]:
    """A simulator and a run against it."""
    target = SimulatedTarget(mode)
    target.time_scale = 2.0  # other tests run beside it
    with Session(target, journal=folder / "journal", seed=SEED) as session:
        yield Run(session, target.peer)
