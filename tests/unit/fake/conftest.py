"""A fake host whose time costs nothing, and a driver for it."""

from __future__ import annotations

import pytest

from hvdrivers.fake import FakeHost, FakeWorld, ManualClock


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
