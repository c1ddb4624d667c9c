"""A short soak of libvirt, with every change; ``make soak`` is the long one."""

from __future__ import annotations

from pathlib import Path

from tests.peers.precondition import PreconditionMissing, missing
from tests.soak.hosts import hosts
from tests.soak.run import Soak


def test_a_short_soak_of_libvirt(tmp_path: Path) -> None:
    """The seed chooses the faults; which operation each of them meets, the machine's load does. So
    a violation is read in its journal, which the failure prints."""
    try:
        with hosts("libvirt", 1) as made:
            soak = Soak(made, seed=1, clients=2, threads=2, timeout=20, folder=tmp_path)
            assert soak.run(25), "\n".join(soak.violations)
            report = soak.report()
    except PreconditionMissing as error:
        missing(str(error))
    assert soak.faults, report
    # a soak in which nothing succeeds shows nothing
    assert "spawn ok" in report
    assert "get_instance ok" in report
