"""A fake host whose time costs nothing, and a driver for it."""

from __future__ import annotations

import functools

import pytest

from hvdrivers import guard
from hvdrivers.fake import FakeHost, FakeWorld, ManualClock


@pytest.fixture(autouse=True, scope="session")
def _capabilities_read_once():
    """Reading them from the class takes longer than most tests here; a class does not change."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(guard, "declared", functools.cache(guard.declared))
        yield


@pytest.fixture
def world():
    return FakeWorld()


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def host(world, clock):
    return FakeHost("alpha", world=world, clock=clock)


@pytest.fixture
def other(world, clock):
    return FakeHost("beta", world=world, clock=clock)


@pytest.fixture
def driver(host):
    with host.connect() as connected:
        yield connected
