"""How the end of a program in a guest is waited for: what its agent says, when, and what libvirt
tells of the machine meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any, cast
from uuid import uuid4

import libvirt
import pytest

from hvdrivers.contract import errors
from hvdrivers.driverkit.deadline import Deadline
from hvdrivers.driverkit.hub import Lost
from hvdrivers.hints import PROGRAM_LOST
from hvdrivers.libvirt import programs
from hvdrivers.libvirt.agent import NO
from hvdrivers.libvirt.event_hub import AgentLeft, Lifecycle, RawEvent, Reboot
from hvdrivers.libvirt.programs import Program, result_of

OURS = uuid4()
RUNS, ENDED = {"exited": False}, {"exited": True, "exitcode": 0}
SILENT = errors.GuestAgentUnavailable("late", vendor_code="VIR_ERR_AGENT_UNRESPONSIVE")
REFUSED = errors.GuestAgentUnavailable("no", vendor_code=NO)
NOT_RUNNING = errors.InvalidState("the machine is not running")
BUSY = errors.DeviceBusy("another client asks the agent")
RUN = 7
"""The number of the run in which the program was started."""
_OFF, _CRASH = libvirt.VIR_DOMAIN_EVENT_STOPPED, libvirt.VIR_DOMAIN_EVENT_CRASHED
PAUSED = Lifecycle(
    "one", OURS, libvirt.VIR_DOMAIN_EVENT_SUSPENDED, libvirt.VIR_DOMAIN_EVENT_SUSPENDED_PAUSED
)


@dataclass
class Said:
    """What a question of the driver gets."""

    what: object
    at: float = 0
    """Seconds since the program was started."""
    then: object = None
    """The event that comes before the next question."""


@dataclass
class Guest:
    """A guest whose agent says one thing after the other, and a clock that follows it."""

    said: Iterator[Said]
    run: int | errors.HypervisorError = RUN
    frozen: bool | errors.HypervisorError = False
    now: float = 0
    event: object = None

    def ask(self, _domain: object, _command: str, *, reads: bool, **_arguments: object) -> object:
        assert reads
        one = next(self.said)
        self.now, self.event = one.at, one.then
        return _answered(one.what)

    def is_frozen(self, _domain: object) -> object:
        return _answered(self.frozen)

    def wait(self, matches: Callable[[Any], bool], timeout: float) -> object:
        if not timeout:
            return None
        event, self.event = self.event, None
        return event if isinstance(event, Lost) or (event and matches(event)) else None

    def find(self, _uuid: object) -> object:
        return SimpleNamespace(ID=partial(int, cast(int, _answered(self.run))))


def _answered(what: object) -> object:
    if isinstance(what, errors.HypervisorError):
        raise what
    return what


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """The exit code of a program whose agent says what is given; all of that must be asked for."""

    def run(*said: object, timeout: float | None = None, **state: Any) -> int:
        left = iter([each if isinstance(each, Said) else Said(each) for each in said])
        made = Guest(left, **state)
        monkeypatch.setattr(programs, "ask", made.ask)
        monkeypatch.setattr(programs, "is_frozen", made.is_frozen)
        monkeypatch.setattr(programs, "Deadline", partial(Deadline, now=lambda: made.now))
        domain: Any = SimpleNamespace(ID=lambda: RUN)
        program = Program(cast(Any, made), OURS, domain, 7)
        try:
            result = program.end(cast(Any, made), Deadline(timeout))
        finally:
            assert next(left, None) is None
        return result.exit_code

    return run


@pytest.fixture
def lost(ended: Callable[..., int]) -> Callable[..., str | None]:
    """The hint where the end of the program is not known after what is said."""

    def run(*said: object, **state: Any) -> str | None:
        with pytest.raises(errors.OutcomeUnknown, match="was started") as caught:
            ended(*said, **state)
        return caught.value.hint

    return run


def test_what_holds_the_agent_up(
    ended: Callable[..., int], lost: Callable[..., str | None]
) -> None:
    """For as long as it lasts."""
    assert ended(BUSY, BUSY, BUSY, ENDED) == 0
    assert ended(NOT_RUNNING, NOT_RUNNING, NOT_RUNNING, ENDED) == 0  # it is paused
    for run in (-1, RUN + 1, errors.InstanceNotFound("gone"), errors.ConnectionFailed("broken")):
        assert lost(NOT_RUNNING, run=run) == PROGRAM_LOST
    assert lost(errors.InstanceNotFound("gone")) == PROGRAM_LOST
    assert ended(REFUSED, REFUSED, REFUSED, ENDED, frozen=True) == 0
    assert ended(REFUSED, REFUSED, REFUSED, ENDED, frozen=BUSY) == 0  # the look at it is held up


def test_what_is_asked_once_more(
    ended: Callable[..., int], lost: Callable[..., str | None]
) -> None:
    """A no that nothing explains; an answer ends the count."""
    assert ended(REFUSED, ENDED) == 0
    assert ended(REFUSED, RUNS, REFUSED, ENDED) == 0
    assert "file" in (lost(REFUSED, REFUSED) or "")
    for unknown in (SILENT, errors.ConnectionFailed("broken"), errors.OperationTimeout("late")):
        assert lost(REFUSED, REFUSED, frozen=unknown)


def test_an_agent_that_is_silent(
    ended: Callable[..., int], lost: Callable[..., str | None]
) -> None:
    """For half a minute, counted from its last sign of life."""
    assert ended(Said(SILENT, 20), Said(RUNS, 25), Said(SILENT, 50), Said(ENDED, 56)) == 0
    assert ended(Said(SILENT, 20), Said(BUSY, 29), Said(SILENT, 50), Said(ENDED, 60)) == 0
    assert lost(Said(SILENT, 20), Said(SILENT, 31))


@pytest.mark.parametrize(
    "event",
    [
        Lifecycle("one", OURS, _OFF, libvirt.VIR_DOMAIN_EVENT_STOPPED_SHUTDOWN),
        Lifecycle("one", OURS, _OFF, libvirt.VIR_DOMAIN_EVENT_STOPPED_SAVED),
        Lifecycle("one", OURS, _CRASH, libvirt.VIR_DOMAIN_EVENT_CRASHED_PANICKED),
    ],
)
def test_events_after_which_it_has_gone(
    ended: Callable[..., int], lost: Callable[..., str | None], event: RawEvent
) -> None:
    """If the agent does not answer then. One that does in the same run has outlived it: it was told
    late. In another run it speaks of another program."""
    assert lost(Said(RUNS, then=event), SILENT) == PROGRAM_LOST
    assert ended(Said(RUNS, then=event), RUNS, SILENT, ENDED) == 0
    for run in (-1, RUN + 1, errors.InstanceNotFound("gone"), errors.ConnectionFailed("broken")):
        for answer in (RUNS, ENDED):
            assert lost(Said(RUNS, then=event), answer, run=run) == PROGRAM_LOST


@pytest.mark.parametrize("event", [Reboot("one", OURS), Lost()])
@pytest.mark.parametrize("answer", [RUNS, ENDED, SILENT])
def test_events_after_which_nothing_is_believed(
    lost: Callable[..., str | None], event: object, answer: object
) -> None:
    """The guest has begun anew in the same run, or may have."""
    assert lost(Said(RUNS, then=event), answer) == PROGRAM_LOST


def test_an_agent_that_leaves(ended: Callable[..., int], lost: Callable[..., str | None]) -> None:
    """It was begun anew, and may know the program; unless the machine stood still, as it does for
    the memory of a snapshot."""
    left = AgentLeft("one", OURS)
    assert ended(Said(RUNS, then=left), SILENT, ENDED) == 0
    assert lost(Said(RUNS, then=PAUSED), Said(RUNS, then=left), ENDED) == PROGRAM_LOST
    resumed = Lifecycle("one", OURS, libvirt.VIR_DOMAIN_EVENT_RESUMED, 0)
    said = Said(RUNS, then=PAUSED), Said(RUNS, then=resumed), Said(RUNS, then=left), ENDED
    assert lost(*said) == PROGRAM_LOST


@pytest.mark.parametrize(
    "event",
    [
        Lifecycle("other", uuid4(), _OFF, libvirt.VIR_DOMAIN_EVENT_STOPPED_SHUTDOWN),
        Reboot("other", uuid4()),
        PAUSED,
    ],
)
def test_events_after_which_it_goes_on(ended: Callable[..., int], event: object) -> None:
    assert ended(Said(RUNS, then=event), SILENT, ENDED) == 0


@pytest.mark.parametrize(
    ("said", "words"), [(RUNS, "still runs"), (SILENT, "was started"), (BUSY, "was started")]
)
def test_the_deadline(ended: Callable[..., int], said: object, words: str) -> None:
    """That it still runs is said where the agent says so."""
    with pytest.raises(errors.OutcomeUnknown, match=words) as caught:
        ended(said, timeout=0)
    assert "timeout=" in (caught.value.hint or "")


@pytest.mark.parametrize("code", [0, 255, -1, (1 << 32) - 1])
def test_exit_codes(code: int) -> None:
    assert result_of({"exited": True, "exitcode": code}).exit_code == code
    assert result_of({"exited": True, "signal": 9}).exit_code == 128 + 9


@pytest.mark.parametrize(
    "said", [{"exitcode": 10**20}, {"exitcode": -(10**20)}, {"signal": 10**20}]
)
def test_what_is_no_exit_code(said: dict[str, int]) -> None:
    with pytest.raises(errors.OutcomeUnknown):
        result_of({"exited": True, **said})
