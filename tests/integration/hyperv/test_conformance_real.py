"""A few checks of the conformance suite with real guests: what a guest itself sees of starts, its
disks and its NICs. ``hvdrivers conformance run hyperv --option guests=real`` tries the others."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Final

import pytest

from hvdrivers.conformance.engine.clauses import Check
from hvdrivers.conformance.engine.finding import find_target
from hvdrivers.conformance.engine.runner import selected
from hvdrivers.contract.errors import InvalidRequest
from hvdrivers.testing.guestimage import GuestImageUnavailable, build_guest_image
from tests.integration.hyperv.conformance_run import Run, running
from tests.integration.part_of_suite import WHOLE
from tests.peers.precondition import missing

EACH_TIME: Final = frozenset(
    {
        "LIFE-002/has_never_started",
        "POWER-006/hard_heeds_no_guest",
        "POWER-007/soft_starts_anew",
        "POWER-010/guest_notices_no_suspend",
        "REBUILD-002/is_fresh",
        "STOR-017/data_goes_with_the_volume",
        "STOR-063/data_moves_along",
    }
)
LONGER: Final = frozenset(
    {
        "GUEST-010/addresses_are_its_own",
        "MIGR-012/data_moves_along",
        "POWER-005/is_cut_in_the_end",
        "RESCUE-002/own_disk_is_as_it_was",
        "SNAP-005/brings_the_disks_back",
        "STOR-020/new_size_is_seen[running]",
    }
)
"""Those that take an emulated guest longest: ``HVDRIVERS_CONFORMANCE=whole`` tries them too."""
TRIED: Final = EACH_TIME | LONGER if WHOLE else EACH_TIME
CHECKS: Final[list[Check]] = [each for each in selected() if each.id in TRIED]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    if shutil.which("qemu-system-x86_64") is None:
        missing("qemu-system-x86_64 is not installed")
    try:
        build_guest_image()
    except GuestImageUnavailable as error:
        missing(str(error))
    with running(tmp_path_factory.mktemp("conformance"), guests="real") as made:
        yield made


def test_each_of_them_is_there() -> None:
    assert {each.id for each in selected()} >= EACH_TIME | LONGER


def test_other_guests_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="no guests 'reel'") as caught:
        find_target("hyperv", options={"guests": "reel"})
    assert caught.value.hint == "guests=played, or real"


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.id)
def test_check(run: Run, check: Check) -> None:
    run.passes(check)


@pytest.mark.each_time
def test_verdict(run: Run) -> None:
    """Runs last."""
    run.leaves_nothing()
