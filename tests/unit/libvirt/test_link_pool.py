"""The pool of connections, over a way to open one that fails as libvirt was seen to."""

from __future__ import annotations

import time
from typing import Any

import libvirt
import pytest

from hvdrivers.contract import errors
from hvdrivers.libvirt import link_pool
from hvdrivers.libvirt.link_pool import LinkPool


def hung_up() -> libvirt.libvirtError:
    """As libvirt raises it where the host accepts and closes (code, domain, message, level)."""
    error = libvirt.libvirtError("virConnectOpenAuth() failed")
    text = "internal error: client socket is closed"
    error.err = (
        libvirt.VIR_ERR_INTERNAL_ERROR,
        libvirt.VIR_FROM_RPC,
        text,
        2,
        text,
        None,
        None,
        0,
        0,
    )
    return error


class Host:
    """Hangs up on the first attempts."""

    def __init__(self, times: int) -> None:
        self.left = times
        self.attempts = 0

    def open(self, _hangs_up: bool) -> Any:
        self.attempts += 1
        if self.left:
            self.left -= 1
            raise hung_up()
        return Connect()


class Connect:
    def isAlive(self) -> int:
        return 1

    def close(self) -> int:
        return 0


def test_a_short_pause_is_waited_for() -> None:
    """The caller that came within it got the earlier attempt's error, though the host was there
    again."""
    host = Host(times=3)
    pool = LinkPool(host.open, connect_timeout=600)
    for _ in range(3):
        with pytest.raises(errors.ConnectionFailed, match="client socket is closed"):
            pool.lease(time.monotonic() + 600)
    pool.release(pool.lease(time.monotonic() + 600))
    assert host.attempts == 4
    pool.close()


def test_a_long_pause_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_pool, "_FIRST_PAUSE", link_pool._LONGEST_PAUSE)
    host = Host(times=9)
    pool = LinkPool(host.open, connect_timeout=600)
    for _ in range(20):
        with pytest.raises(errors.ConnectionFailed, match="client socket is closed"):
            pool.lease(time.monotonic() + 600)
    assert host.attempts == 1
    pool.close()


def test_a_pause_ends_with_the_deadline() -> None:
    host = Host(times=9)
    pool = LinkPool(host.open, connect_timeout=600)
    with pytest.raises(errors.ConnectionFailed):
        pool.lease(time.monotonic() + 600)
    with pytest.raises(errors.OperationTimeout):
        pool.lease(time.monotonic())
    assert host.attempts == 1
    pool.close()


def test_a_call_behind_the_end_of_its_connection_is_not_made() -> None:
    """Another thread closes a dead link that is used beside its operations: the call came to a
    connection that libvirt had freed."""
    pool = LinkPool(Host(times=0).open, connect_timeout=600)
    link = pool.lease(time.monotonic() + 600)
    made: list[str] = []
    pool.discard(link)
    with pytest.raises(errors.ConnectionFailed, match="closed before the call was sent"):
        link.run(lambda: made.append("call"), time.monotonic() + 600, pool.notify)
    with pytest.raises(errors.ConnectionFailed, match="closed before the call was sent"):
        link.locally(lambda: made.append("newStream"))
    assert not link.alive
    assert not made
    pool.close()
