"""The end of a migration: how it is awaited, and what the source does with a machine that it has
still."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

import libvirt
import pytest

from hvdrivers.contract import errors
from hvdrivers.driverkit.deadline import Deadline
from hvdrivers.libvirt.leaving import LEAVING_NAMESPACE, Leaving
from hvdrivers.libvirt.moving_wait import await_end, told
from hvdrivers.libvirt.unseen import has_ended
from hvdrivers.models.progress import Progress


class Sending(Future[None]):
    """A migration that is looked at so often before it ends."""

    def __init__(self, looks: int, error: BaseException | None = None) -> None:
        super().__init__()
        self.looks, self.error = looks, error

    def result(self, timeout: float | None = None) -> None:
        self.looks -= 1
        assert self.looks > -5
        if not self.done():
            if self.looks >= 0:
                raise TimeoutError
            self.end()
        return super().result(0)

    def end(self) -> None:
        if self.error is None:
            self.set_result(None)
        else:
            self.set_exception(self.error)


class Source:
    """The machine where the migration begins."""

    def __init__(self, sending: Sending, remaining: tuple[int, ...] = (8, 6, 4, 2)) -> None:
        self.sending, self.remaining = sending, list(remaining)
        self.asked = 0
        self.aborted = 0

    def jobStats(self, _flags: int) -> dict[str, int]:
        self.asked += 1
        if not self.remaining:
            return {"type": libvirt.VIR_DOMAIN_JOB_NONE}
        return {
            "type": libvirt.VIR_DOMAIN_JOB_UNBOUNDED,
            "operation": libvirt.VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT,
            "data_total": 10,
            "data_remaining": self.remaining.pop(0),
        }

    def abortJob(self) -> None:
        self.aborted += 1
        self.sending.end()


def wait(source: Any, **how: Any) -> int:
    """Wait for the end; how often it was seen to have begun."""
    begun: list[None] = []
    arguments = {"deadline": Deadline(None), "progress": None} | how
    await_end(source, source.sending, begun=lambda: begun.append(None), **arguments)
    return len(begun)


def test_it_is_seen_once_that_it_has_begun() -> None:
    """And then it is not asked for, if nobody wants to know how far it has come."""
    source = Source(Sending(3))
    assert wait(source) == 1
    assert source.asked == 1


def test_progress_never_goes_back() -> None:
    told: list[Progress] = []
    source = Source(Sending(4), (8, 3, 5, 1))
    assert wait(source, progress=told.append) == 1
    assert [each.done for each in told] == [2, 7, 7, 9]


def test_a_failure_is_told() -> None:
    with pytest.raises(errors.HypervisorFault, match="refused"):
        wait(Source(Sending(2, errors.HypervisorFault("refused"))))
    with pytest.raises(TimeoutError):  # it is the migration's own
        wait(Source(Sending(2, TimeoutError())))


def test_at_the_deadline_it_is_ended() -> None:
    over = Deadline(0)
    source = Source(Sending(100, errors.HypervisorFault("aborted")))
    with pytest.raises(errors.OperationTimeout):
        wait(source, deadline=over)
    assert source.aborted == 1
    # it had come to its end before that
    assert wait(Source(Sending(100)), deadline=over) == 0


def machine(token: str | None) -> Any:
    """One that the source has, with the note of a migration."""

    class Machine:
        ended = False

        def XMLDesc(self, _flags: int) -> str:
            if token is None:
                return "<domain/>"
            note = Leaving(token=token, where="there", shared=False, log_shared=False)
            kept = f'<instance xmlns="{LEAVING_NAMESPACE}">{note.model_dump_json()}</instance>'
            return f"<domain><metadata>{kept}</metadata></domain>"

        def destroyFlags(self, _flags: int) -> None:
            self.ended = True

        def hasManagedSaveImage(self, _flags: int) -> bool:
            return False

        def undefineFlags(self, _flags: int) -> None:
            assert self.ended

    return Machine()


def test_the_machine_that_the_source_has_kept() -> None:
    kept = machine("one")
    assert has_ended("one", kept)
    assert kept.ended


@pytest.mark.parametrize("token", [None, "another"])
def test_a_machine_that_has_not_left_is_not_ended(token: str | None) -> None:
    """Another client has made it, or has let it go on."""
    other = machine(token)
    with pytest.raises(errors.OutcomeUnknown, match="here, too") as caught:
        has_ended("one", other)
    assert "look at both" in (caught.value.hint or "")
    assert not other.ended


class Active:
    """A machine that runs, or does not, or of which nobody knows."""

    def __init__(self, answer: bool | errors.HypervisorError) -> None:
        self.answer = answer

    def isActive(self) -> bool:
        if isinstance(self.answer, errors.HypervisorError):
            raise self.answer
        return self.answer


@pytest.mark.parametrize(
    ("running", "answer", "kind"),
    [
        (False, False, errors.HypervisorFault),
        (True, True, errors.HypervisorFault),
        (True, errors.ConnectionFailed("cut"), errors.HypervisorFault),
        (True, False, errors.InvalidState),
    ],
)
def test_no_state_forbids_a_migration_that_has_begun(
    running: bool, answer: Any, kind: type[errors.HypervisorError]
) -> None:
    """The words of libvirt 9.0 where the QEMU of the machine has died on the way."""
    error = errors.InvalidState("domain 'x' is not being migrated", vendor_code="code")
    found = told(error, Active(answer), running=running)  # type: ignore[arg-type]
    assert (type(found), found.message, found.vendor_code) == (kind, error.message, "code")


def test_any_other_error_is_told_as_it_is() -> None:
    error = errors.InsufficientResources("no room")
    assert told(error, Active(False), running=False) is error  # type: ignore[arg-type]
