"""An error of libvirt's that Python's garbage collector takes away."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from uuid import uuid4

import libvirt
import pytest

from hvdrivers.contract import errors
from hvdrivers.libvirt.errors import translate
from hvdrivers.libvirt.lost_errors import insisting, is_lost, unreadable


@pytest.fixture
def raw() -> Iterator[libvirt.virConnect]:
    """libvirt's own test driver: in this process, without a daemon."""
    libvirt.registerErrorHandler(lambda _context, _error: None, None)
    with closing(libvirt.open("test:///default")) as connection:
        yield connection


@pytest.fixture
def greedy() -> Iterator[None]:
    """The garbage collector runs whenever it can."""
    before = gc.get_threshold()
    gc.set_threshold(1, 1, 1)
    yield
    gc.set_threshold(*before)
    gc.enable()


def _garbage(raw: libvirt.virConnect) -> None:
    """A domain that nobody but the garbage collector frees. It waits until it is let."""
    gc.disable()
    garbage: list[object] = [raw.lookupByName("test")]
    garbage.append(garbage)


def _absent(raw: libvirt.virConnect) -> None:
    uuid = str(uuid4())
    gc.enable()
    raw.lookupByUUIDString(uuid)


@pytest.mark.usefixtures("greedy")
def test_the_client_library_alone_loses_it(raw: libvirt.virConnect) -> None:
    """If this fails, libvirt-python has been mended, and lost_errors.py is not needed any more."""
    _garbage(raw)
    with pytest.raises(libvirt.libvirtError) as caught:
        _absent(raw)
    assert is_lost(caught.value)
    translated = translate(caught.value)
    assert type(translated) is errors.HypervisorFault
    assert translated.hint is not None
    assert "garbage collector" in translated.hint


@pytest.mark.usefixtures("greedy")
def test_a_read_is_made_again(raw: libvirt.virConnect) -> None:
    _garbage(raw)
    with pytest.raises(libvirt.libvirtError) as caught:
        insisting(partial(_absent, raw))
    assert type(translate(caught.value)) is errors.InstanceNotFound


def test_it_comes_to_an_end() -> None:
    made: list[None] = []

    def fail() -> None:
        made.append(None)
        raise libvirt.libvirtError("of nothing")

    libvirt.virResetLastError()
    with pytest.raises(libvirt.libvirtError):
        insisting(fail)
    assert len(made) == 5


def test_a_message_that_is_no_utf_8() -> None:
    """As the binding raises it: a guest's agent has answered so, see ``test_agent_played.py``."""
    raised = SystemError("returned a result with an exception set")
    raised.__cause__ = UnicodeDecodeError("utf-8", b"caf\xe9", 3, 4, "unexpected end of data")
    assert unreadable(raised) == "caf\ufffd"
    assert unreadable(SystemError("another")) is None
