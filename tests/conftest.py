"""Fixtures for all tests. Servers start when the first test asks for one."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import settings

from tests.peers.fixtures import agent_image, guest_image, libvirt_peer, linux_bridge, ovs_bridge

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


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """pytest-xdist hands files out in this order (``--no-loadscope-reorder``). A long file that
    began last would keep one worker busy after the others have ended; by itself xdist orders files
    by the number of their tests, and some of the longest have few."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return
    here = Path(__file__).parent
    first = {here / name: at for at, name in enumerate(LONGEST)}
    tests = Counter(each.path for each in items)
    items.sort(key=lambda each: (first.get(each.path, len(first)), -tests[each.path]))


__all__ = ["agent_image", "guest_image", "libvirt_peer", "linux_bridge", "ovs_bridge"]
