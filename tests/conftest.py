"""Fixtures for all tests. Servers start when the first test asks for one."""

from __future__ import annotations

import os
import zlib
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import settings

from tests.peers.fixtures import (
    agent_image,
    guest_image,
    libvirt_peer,
    linux_bridge,
    ovn,
    ovs_bridge,
)

# No deadline by the clock: a busy machine is no reason to fail. The same examples in each run, so
# that what was green stays so; HVDRIVERS_FUZZ=1 looks for others.
settings.register_profile(
    "hvdrivers", deadline=None, derandomize=not os.environ.get("HVDRIVERS_FUZZ")
)
settings.load_profile("hvdrivers")

LONGEST = (
    "integration/libvirt/test_conformance.py",
    "integration/vmware/test_conformance_vpx.py",
    "integration/hyperv/test_conformance_more.py",
    "integration/libvirt/test_conformance_faults.py",
    "integration/libvirt/test_faults.py",
    "unit/conformance/test_scaffold.py",
    "unit/conformance/test_suite.py",
    "integration/libvirt/test_power.py",
    "integration/vmware/test_conformance_esx.py",
    "integration/hyperv/test_conformance.py",
    "integration/libvirt/test_conformance_migration.py",
)
"""Files that take longer than a minute and a half, the longest first."""


TURN = os.environ.get("HVDRIVERS_TURN", "")
"""A number, by which one part of ``IN_TURNS`` is chosen; empty: all of them run."""
TURNS = 5
"""How many parts there are. ``.ci/run`` counts days: there each of these tests runs every fifth."""
IN_TURNS = ("integration/", "unit/conformance/")
"""Where the tests are that take nearly all of the time."""


def pytest_report_header() -> str:
    if not TURN:
        return "hvdrivers: all tests"
    part = int(TURN) % TURNS
    return f"hvdrivers: part {part} of {TURNS} of the tests on servers (HVDRIVERS_TURN={part})"


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out what has its turn another time, and brings the files into order.

    pytest-xdist hands files out in this order (``--no-loadscope-reorder``). A long file that
    began last would keep one worker busy after the others have ended; by itself xdist orders files
    by the number of their tests, and some of the longest have few."""
    here = Path(__file__).parent
    if TURN:
        chosen = [each for each in items if _has_its_turn(each, here)]
        config.hook.pytest_deselected(items=list(set(items) - set(chosen)))
        items[:] = chosen
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return
    first = {here / name: at for at, name in enumerate(LONGEST)}
    tests = Counter(each.path for each in items)
    items.sort(key=lambda each: (first.get(each.path, len(first)), -tests[each.path]))


def _has_its_turn(item: pytest.Item, here: Path) -> bool:
    name = item.path.relative_to(here).as_posix()
    if not name.startswith(IN_TURNS) or item.get_closest_marker("each_time"):
        return True
    # by the name alone: it stays in its part when others are added
    return zlib.crc32(item.nodeid.encode()) % TURNS == int(TURN) % TURNS


__all__ = ["agent_image", "guest_image", "libvirt_peer", "linux_bridge", "ovn", "ovs_bridge"]
