"""The undo stack: what runs, in which order, and which error the caller gets."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial

import pytest

from hvdrivers.contract import errors
from hvdrivers.driverkit import (
    Deadline,
    Undo,
    bounding,
    changed,
    current_deadline,
    ended,
    has_changed,
    has_lost,
    note_change,
    note_loss,
    operating,
    truthful,
    undoing,
)

Step = Callable[[], object]
PROMISES = (
    errors.NotSupported,
    errors.ImageRejected,
    errors.InvalidState,
    errors.VolumeNotFound,
    errors.NetworkNotFound,
    errors.DeviceBusy,
    errors.InsufficientResources,
    errors.PermissionDenied,
)
"""Of those that say why nothing was changed."""


def operation(*steps: Step, fails_with: BaseException | None = None, forgets: int = 0) -> None:
    """Begins what the steps take back, forgets the newest ones, and fails."""
    with undoing() as undo:
        for step in steps:
            undo.callback(step)
        for _ in range(forgets):
            undo.forget()
        if fails_with is not None:
            raise fails_with


def failing(error: Exception) -> Step:
    def step() -> None:
        raise error

    return step


def test_the_steps_run_backwards_when_the_block_fails() -> None:
    ran: list[str] = []
    steps = partial(ran.append, "first"), partial(ran.append, "second")
    with pytest.raises(errors.HypervisorFault):
        operation(*steps, fails_with=errors.HypervisorFault("the third change failed"))
    assert ran == ["second", "first"]


def test_nothing_runs_when_the_block_gets_to_its_end() -> None:
    ran: list[str] = []
    operation(partial(ran.append, "first"))
    assert ran == []


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_block_is_taken_back_too(interruption: type[BaseException]) -> None:
    ran: list[str] = []
    with pytest.raises(interruption):
        operation(partial(ran.append, "first"), fails_with=interruption())
    assert ran == ["first"]


def test_a_forgotten_step_does_not_run() -> None:
    ran: list[str] = []
    steps = partial(ran.append, "ours"), partial(ran.append, "of another spawn")
    with pytest.raises(errors.InstanceExists):
        operation(*steps, forgets=1, fails_with=errors.InstanceExists("there is one"))
    assert ran == ["ours"]


def test_a_failed_step_is_a_note_of_the_original_error_and_the_rest_runs() -> None:
    ran: list[str] = []
    steps = partial(ran.append, "first"), failing(errors.DeviceBusy("the disk is in use"))
    with pytest.raises(errors.ImageRejected) as caught:
        operation(*steps, fails_with=errors.ImageRejected("the image is corrupt"))
    assert ran == ["first"]
    assert "the disk is in use" in caught.value.__notes__[0]


@pytest.mark.parametrize("promise", [errors.ConnectionFailed, errors.OperationTimeout])
def test_an_error_that_promises_no_change_gives_way(promise: type[errors.HypervisorError]) -> None:
    step = failing(errors.DeviceBusy("the disk is in use"))
    with pytest.raises(errors.OutcomeUnknown, match="the disk is in use") as caught:
        operation(step, fails_with=promise("cut", vendor_code="CODE"))
    assert caught.value.vendor_code == "CODE"
    assert type(caught.value.__cause__) is promise


def test_a_dead_host_is_tried_twice_and_no_more() -> None:
    tried: list[int] = []

    def step(number: int) -> None:
        tried.append(number)
        raise errors.ConnectionFailed("the host does not answer")

    with pytest.raises(errors.OutcomeUnknown):
        operation(
            *(partial(step, number) for number in range(5)),
            fails_with=errors.ConnectionFailed("the host does not answer"),
        )
    assert tried == [4, 3]


def test_close_raises_the_first_error() -> None:
    with undoing() as undo:
        undo.callback(failing(errors.HypervisorFault("the first step")))
        undo.callback(failing(errors.DeviceBusy("the second step")))
        with pytest.raises(errors.DeviceBusy, match="the second step"):
            undo.close()


def test_after_a_change_that_stays_a_lost_connection_leaves_the_outcome_unknown() -> None:
    with pytest.raises(errors.OutcomeUnknown, match="cut, and a part had been done"), changed():
        raise errors.ConnectionFailed("cut")


def test_after_a_change_other_errors_stay_what_they_are() -> None:
    with pytest.raises(errors.DeviceBusy), changed():
        raise errors.DeviceBusy("in use")


@pytest.mark.parametrize("promise", PROMISES)
def test_after_the_end_of_a_guests_run_no_error_promises_that_nothing_has_changed(
    promise: type[errors.HypervisorError],
) -> None:
    """What the caller can do about it stays."""
    with pytest.raises(errors.OutcomeUnknown, match="a part had been done") as told, ended():
        raise promise("no", hint="ask for less", vendor_code="V", retryable=False)
    assert (told.value.hint, told.value.vendor_code) == ("ask for less", "V")
    assert not told.value.retryable
    stays = failing(errors.HypervisorFault("it does not start"))
    with pytest.raises(errors.OutcomeUnknown) as lost, truthful():
        _loses_and_then(lambda: operation(stays, fails_with=promise("no")))
    assert "it does not start" in str(getattr(lost.value.__cause__, "__notes__", ""))
    with pytest.raises(promise), truthful():  # the run that ended was the operation's own
        operation(stays, note_loss, fails_with=promise("no"))


def test_after_the_end_of_a_guests_run_other_errors_stay_what_they_are() -> None:
    for told in (errors.HypervisorFault, errors.InstanceNotFound, errors.OutcomeUnknown):
        with pytest.raises(told, match=r"^no$"), ended():
            raise told("no")


@pytest.mark.parametrize("promise", [errors.ConnectionFailed, errors.OperationTimeout])
def test_after_a_change_that_stays_no_error_promises_that_there_was_none(
    promise: type[errors.HypervisorError],
) -> None:
    with pytest.raises(errors.OutcomeUnknown), changed():
        raise promise("too late")


def test_a_step_that_failed_stops_what_it_guards_and_nothing_else() -> None:
    ran: list[str] = []
    undo = Undo()
    claim = undo.callback(ran.append, "claim")
    disk = undo.callback(ran.append, "disk", guards=[claim])
    undo.callback(ran.append, "mark")
    undo.callback(failing(errors.DeviceBusy("it still runs")), guards=[disk])
    undo.callback(ran.append, "console")
    with pytest.raises(errors.DeviceBusy):
        undo.close()
    assert ran == ["console", "mark"]


def test_a_step_that_worked_stops_nothing() -> None:
    ran: list[str] = []
    undo = Undo()
    undo.callback(ran.append, "disk")
    undo.callback(ran.append, "machine", guards=undo.steps)
    undo.close()
    assert ran == ["machine", "disk"]


def test_any_error_of_a_step_is_one_error_and_the_other_steps_run() -> None:
    ran: list[str] = []
    undo = Undo()
    undo.callback(ran.append, "first")
    undo.callback(failing(UnicodeDecodeError("utf-8", b"", 0, 1, "a name of the pool")))
    undo.callback(ran.append, "third")
    with pytest.raises(errors.HypervisorFault, match="UnicodeDecodeError") as caught:
        undo.close()
    assert type(caught.value.__cause__) is UnicodeDecodeError
    assert ran == ["third", "first"]


def test_an_interrupt_in_a_step_comes_after_the_other_steps() -> None:
    ran: list[str] = []

    def interrupted() -> None:
        raise KeyboardInterrupt

    undo = Undo()
    undo.callback(ran.append, "first")
    undo.callback(interrupted)
    with pytest.raises(KeyboardInterrupt):
        undo.close()
    assert ran == ["first"]


def test_an_undo_has_time_of_its_own_after_the_deadline() -> None:
    left: list[float] = []
    undo = Undo()
    undo.callback(lambda: left.append(current_deadline().left))
    with bounding(Deadline(0)):
        assert current_deadline().passed
        undo.close()
    assert 0 < left[0] <= 3
    assert not current_deadline().bounded


@pytest.mark.parametrize("promise", [errors.ConnectionFailed, errors.OperationTimeout])
def test_an_operation_that_has_changed_something_does_not_say_that_it_has_not(
    promise: type[errors.HypervisorError],
) -> None:
    def cut_after_a_change() -> None:
        note_change()
        raise promise("the next call")

    def cut_after_two_of_which_one_is_taken_back() -> None:
        note_change()
        with undoing():
            cut_after_a_change()

    with pytest.raises(promise), truthful():
        raise promise("nothing was sent")
    with pytest.raises(errors.OutcomeUnknown, match="a part had been done"), truthful():
        cut_after_a_change()
    with pytest.raises(promise), truthful(), undoing():
        cut_after_a_change()
    with pytest.raises(errors.OutcomeUnknown), truthful():
        cut_after_two_of_which_one_is_taken_back()
    note_change()  # outside of any operation: nobody asks
    assert not has_changed()


def _loses_and_then(then: Step) -> None:
    note_loss()
    then()


def _loses(then: errors.HypervisorError) -> None:
    with undoing() as undo:
        undo.callback(note_loss)  # it ends what the block has begun
        note_loss()
        raise then


def _loses_without_an_undo() -> None:
    note_loss()
    raise errors.ConnectionFailed("the next call")


def _loses_and_tries_again() -> None:
    with suppress(errors.DeviceBusy):
        _loses(errors.DeviceBusy("the first attempt"))
    assert has_changed()
    assert has_lost()
    with undoing():
        raise errors.OperationTimeout("the second")


def _ends_what_it_has_begun() -> None:
    with undoing() as undo:
        undo.callback(note_loss)
        note_change()
        raise errors.ConnectionFailed("the next call")


def test_what_no_undo_brings_back_is_not_hidden() -> None:
    with pytest.raises(errors.OutcomeUnknown), truthful(), undoing():
        _loses(errors.ConnectionFailed("the next call"))
    with pytest.raises(errors.OutcomeUnknown), truthful():
        _loses_and_tries_again()
    with pytest.raises(errors.OutcomeUnknown), truthful():
        _loses_without_an_undo()
    with pytest.raises(errors.ConnectionFailed), truthful(), undoing():
        _ends_what_it_has_begun()
    note_loss()  # outside of any operation: nobody asks
    assert not has_changed()
    assert not has_lost()


def _late() -> None:
    note_change()
    raise errors.OperationTimeout("late")


def test_an_operation_has_one_deadline_and_truthful_errors() -> None:
    with operating(60) as deadline:
        assert current_deadline() is deadline
        assert 59 < deadline.left <= 60
    with pytest.raises(errors.OutcomeUnknown), operating(60):
        _late()
    with pytest.raises(errors.OperationTimeout), operating(60, changes=False):
        _late()
    assert not current_deadline().bounded


def test_an_operation_knows_whether_it_has_changed_something() -> None:
    with truthful():
        assert not has_changed()
        with suppress(errors.OperationTimeout), undoing():
            note_change()
            assert has_changed()
            raise errors.OperationTimeout("the next step")
        assert not has_changed()  # it was taken back
        note_change()
        assert has_changed()


def test_a_step_that_failed_in_the_operations_own_close_is_not_forgotten() -> None:
    ran: list[str] = []
    refusals = [errors.DeviceBusy("in use"), errors.ConnectionFailed("cut")]

    def delete() -> None:
        ran.append("delete")
        if refusals:
            raise refusals.pop()

    def copy_out() -> None:
        with undoing() as undo:
            guarded = undo.callback(ran.append, "claim")
            undo.callback(delete, guards=[guarded])
            undo.close()

    with pytest.raises(errors.OutcomeUnknown, match="could not be removed: in use"):
        copy_out()  # tried again when the block fails, and in vain
    assert ran == ["delete", "delete"]
    refusals.append(errors.ConnectionFailed("cut"))
    ran.clear()
    with pytest.raises(errors.ConnectionFailed):
        copy_out()  # the second attempt has left nothing: nothing has changed
    assert ran == ["delete", "delete", "claim"]


def test_closing_twice_takes_no_more_time_than_once() -> None:
    ends: list[float] = []

    def step() -> None:
        ends.append(current_deadline().at)
        raise errors.DeviceBusy("in use")

    undo = Undo()
    undo.callback(step)
    with bounding(Deadline(0)):
        for _ in range(2):
            with pytest.raises(errors.DeviceBusy):
                undo.close()
    assert ends[0] == ends[1]


def test_a_blocked_step_is_never_run_nor_what_it_guards() -> None:
    ran: list[str] = []
    undo = Undo()
    disk = undo.callback(ran.append, "delete the disk")
    undo.callback(ran.append, "run the machine again")
    undo.callback(ran.append, "give it the old disk", guards=[disk]).block()
    for _ in range(2):
        undo.close()
        assert ran == ["run the machine again"]


def test_a_blocked_step_is_a_change_that_stays() -> None:
    def rebuild() -> None:
        with undoing() as undo:
            note_change()
            undo.callback(lambda: None).block()
            raise errors.ConnectionFailed("the connection was lost")

    with pytest.raises(errors.OutcomeUnknown), truthful():
        rebuild()
    with pytest.raises(errors.OutcomeUnknown, match="a part had been done"):
        rebuild()  # also in a driver that notes no changes


def test_nothing_is_taken_back_from_the_point_of_no_return_on() -> None:
    ran: list[str] = []

    def commit() -> None:
        with undoing() as undo:
            undo.callback(ran.append, "delete the copy")
            undo.forget_all()
            assert undo.steps == ()
            undo.callback(ran.append, "delete the snapshot")
            raise errors.HypervisorFault("a later change failed")

    with pytest.raises(errors.HypervisorFault):
        commit()
    assert ran == ["delete the snapshot"]
