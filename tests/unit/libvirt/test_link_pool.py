"""The pool of connections, over a way to open one that fails as libvirt was seen to."""

from __future__ import annotations

import threading
import time
from typing import Any

import libvirt
import pytest

from hvdrivers.contract import errors
from hvdrivers.libvirt import link_pool
from hvdrivers.libvirt.link import NotMade
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


def test_a_thread_makes_the_calls_of_a_link_itself() -> None:
    """Others come after it, and one that hangs leaves the link of no use until it is back."""
    pool = LinkPool(Host(times=0).open, connect_timeout=600)
    link = pool.lease(time.monotonic() + 600)
    far = time.monotonic() + 600
    assert link.begin_here(far)
    assert not link.begin_here(far)
    here = threading.get_ident()
    assert link.run(threading.get_ident, far, pool.notify) == here
    later = link.submit(threading.get_ident)
    assert link.usable
    assert not later.done()
    link.end_here()
    assert later.result(600) != here

    assert link.begin_here(time.monotonic())  # its caller leaves it now
    assert link.stuck
    assert not link.usable
    with pytest.raises(NotMade):
        link.run(never, far, pool.notify)
    link.end_here()
    assert link.usable
    pool.close()


def test_no_thread_makes_calls_of_a_link_that_was_closed() -> None:
    pool = LinkPool(Host(times=0).open, connect_timeout=600)
    link = pool.lease(time.monotonic() + 600)
    assert link.begin_here(time.monotonic() + 600)
    pool.discard(link)
    assert link.alive  # it is closed after the last call
    link.end_here()
    link.submit(lambda: None).result(600)
    with pytest.raises(errors.ConnectionFailed, match="closed before the call was sent"):
        link.begin_here(time.monotonic() + 600)
    pool.close()


def never() -> None:
    raise AssertionError("it was called")
