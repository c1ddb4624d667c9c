"""Where the session daemon of this machine is looked for, a path that no socket can have, and how
libvirt's event loop is held."""

import gc
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from hvdrivers.contract import errors
from hvdrivers.libvirt.config import LibvirtConfig
from hvdrivers.libvirt.opening import (
    _brake,
    ensure_event_loop,
    open_connection,
    require_short_socket,
    session_socket,
)

HOME = {"HOME": "/home/u"}


@pytest.mark.parametrize(
    ("uri", "environment", "path"),
    [
        ("qemu:///session", HOME, "/home/u/.cache/libvirt/libvirt-sock"),
        ("qemu:///session", {**HOME, "XDG_CACHE_HOME": "/c"}, "/c/libvirt/libvirt-sock"),
        ("qemu:///session", {**HOME, "XDG_RUNTIME_DIR": "/r"}, "/r/libvirt/libvirt-sock"),
        ("qemu+unix:///session?socket=/s", HOME, None),
        ("qemu+ssh://u@h/session", HOME, None),
        ("qemu:///system", HOME, None),
    ],
)
def test_where_it_is_looked_for(uri: str, environment: dict[str, str], path: str | None) -> None:
    assert session_socket(uri, environment) == path


def test_a_path_that_is_too_long_is_told_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    fits = "/" + "h" * (107 - len("//.cache/libvirt/libvirt-sock"))
    require_short_socket("qemu:///session", {"HOME": fits})
    monkeypatch.setenv("HOME", f"{fits}h")
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    with pytest.raises(errors.ConnectionFailed, match="108 bytes, and Linux allows 107") as raised:
        open_connection(LibvirtConfig(uri="qemu:///session"))
    assert "XDG_RUNTIME_DIR" in (raised.value.hint or "")
    assert not raised.value.retryable
    require_short_socket("qemu:///session", {"HOME": f"{fits}h", "XDG_RUNTIME_DIR": "/r"})


def test_to_hold_the_event_loop_costs_no_memory() -> None:
    """Libvirt-python frees no timer: one for each use took 300 KiB a minute in a soak."""
    ensure_event_loop()

    def hold(_: int) -> None:
        with _brake.on():
            pass

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(hold, range(40)))
        gc.collect()
        before = sys.getallocatedblocks()
        list(pool.map(hold, range(400)))
        gc.collect()
    assert sys.getallocatedblocks() - before < 400
