"""The model of the soak, and a short soak of the fake."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest

from hvdrivers.contract import errors
from hvdrivers.fake.world import default_world
from hvdrivers.models.instance import Flavor, InstanceInfo
from hvdrivers.models.state import InstanceState as S
from hvdrivers.models.vif import AttachedVif
from hvdrivers.models.volume import AttachedVolume
from tests.peers.waiting import wait_until
from tests.soak.client import Client
from tests.soak.errors import Violation
from tests.soak.hosts import hosts
from tests.soak.model import Expected
from tests.soak.run import Soak
from tests.soak.worker import Worker


def test_a_success_that_no_state_allows() -> None:
    model = Expected(known=True)
    model.succeeded("spawn")
    model.succeeded("pause")
    with pytest.raises(Violation, match="resume"):
        model.succeeded("resume")


def test_a_lost_reply_leaves_both() -> None:
    model = Expected(known=True)
    model.succeeded("spawn")
    model.failed("power_off", errors.OutcomeUnknown("lost"))
    # the last: the daemon may have died between the end of the guest and its own note of it
    assert model.possible == {S.RUNNING, S.STOPPED, S.CRASHED}
    model.failed("power_on", errors.ConnectionFailed("not sent"))
    assert model.possible == {S.RUNNING, S.STOPPED, S.CRASHED}
    model.seen(S.STOPPED, "get")
    with pytest.raises(Violation, match="get shows running, possible is stopped"):
        model.seen(S.RUNNING, "get")


def test_a_refusal_tells_the_state() -> None:
    model = Expected(known=True)
    model.succeeded("spawn")
    model.failed("pause", errors.OutcomeUnknown("lost"))
    model.failed("detach_volume", errors.InvalidState("no"))
    assert model.possible == {S.PAUSED}
    with pytest.raises(Violation, match="forbids"):
        model.failed("unpause", errors.InvalidState("no"))


def test_never_both_there_and_not_there() -> None:
    model = Expected(known=True)
    model.failed("spawn", errors.OutcomeUnknown("lost"))
    model.failed("spawn", errors.InstanceExists("there"))
    with pytest.raises(Violation, match="absent"):
        model.seen(None, "get")


def test_a_start_that_goes_on_behind_a_lost_reply() -> None:
    for end in (S.RUNNING, None):
        model = Expected(known=True)
        model.failed("spawn", errors.OutcomeUnknown("lost"))
        model.seen(S.BUILDING, "get")
        model.failed("pause", errors.InvalidState("no"))
        model.seen(end, "get")
    model = Expected(known=True)
    model.failed("spawn", errors.OutcomeUnknown("lost"))
    model.seen(S.BUILDING, "get")
    model.failed("spawn", errors.InstanceExists("there"))
    with pytest.raises(Violation, match="absent"):
        model.seen(None, "get")


def test_what_comes_behind_a_lost_reply() -> None:
    """A read does not tell that nothing comes any more, a change does."""
    model = Expected(known=True)
    model.attached = {"v": False}
    model.succeeded("spawn", started=False)
    model.failed("power_on", errors.OutcomeUnknown("lost"))
    model.seen(S.STOPPED, "get")
    model.seen(S.RUNNING, "get")
    model.succeeded("set_metadata")
    with pytest.raises(Violation, match="possible is running"):
        model.seen(S.STOPPED, "get")
    model.failed("power_off", errors.OutcomeUnknown("lost"))
    model.seen(S.RUNNING, "get")
    model.succeeded("set_metadata")
    model.seen(S.RUNNING, "get")
    with pytest.raises(Violation, match="possible is running"):
        model.seen(S.STOPPED, "get")


def test_a_suspend_that_goes_on_behind_a_lost_reply() -> None:
    for end in (S.RUNNING, S.SUSPENDED):
        model = Expected(known=True)
        model.succeeded("spawn")
        model.failed("suspend", errors.OutcomeUnknown("lost"))
        model.seen(S.PAUSED, "get")
        model.seen(end, "get")
        with pytest.raises(Violation, match="stopped"):
            model.seen(S.STOPPED, "get")


def test_a_paused_machine_that_is_being_switched_off() -> None:
    for runs in (True, False):
        model = Expected(known=True, runs_to_the_end=runs)
        model.succeeded("spawn")
        model.succeeded("pause")
        model.failed("destroy", errors.OutcomeUnknown("lost"))
        if runs:
            model.seen(S.RUNNING, "get")
            model.seen(None, "get")
        else:
            with pytest.raises(Violation):
                model.seen(S.RUNNING, "get")


def test_a_guest_that_was_killed() -> None:
    model = Expected(known=True)
    model.succeeded("spawn")
    with pytest.raises(Violation):
        model.seen(S.CRASHED, "get")
    model.seen(S.CRASHED, "get", died=True)


def test_a_crash_that_the_host_forgets() -> None:
    for forgets in (True, False):
        model = Expected(known=True, forgets_crashes=forgets)
        model.succeeded("spawn")
        model.seen(S.CRASHED, "get", died=True)
        if forgets:
            model.seen(S.STOPPED, "get")
        else:
            with pytest.raises(Violation):
                model.seen(S.STOPPED, "get")


def test_a_refusal_by_a_machine_that_has_died_behind_a_lost_reply() -> None:
    model = Expected(known=True)
    model.succeeded("spawn")
    model.succeeded("suspend")
    model.failed("resume", errors.OutcomeUnknown("lost"))
    model.failed("reboot", errors.InvalidState("stopped"), died=True)
    model.seen(S.STOPPED, "get")


def test_a_machine_without_a_definition_that_dies() -> None:
    for defined in (False, True):
        model = Expected(known=True)
        model.failed("spawn", errors.OutcomeUnknown("lost"))
        model.seen(S.RUNNING, "get")
        model.succeeded("set_metadata" if defined else "unpause")
        if defined:
            with pytest.raises(Violation, match="no such instance"):
                model.failed("resume", errors.InstanceNotFound("gone"), died=True)
        else:
            model.failed("resume", errors.InstanceNotFound("gone"), died=True)


def test_a_short_soak_of_the_fake(tmp_path: Path) -> None:
    with hosts("fake", 2) as made:
        soak = Soak(made, seed=11, clients=2, threads=2, timeout=20, folder=tmp_path)
        assert soak.run(5), "\n".join(soak.violations)
    assert soak.faults
    assert any(soak.sizes().values())


def test_a_fault_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The soak can fail: somebody changes what only one client may change."""
    with hosts("fake", 1) as made:
        soak = Soak(made, seed=11, clients=1, threads=2, timeout=20, folder=tmp_path)
        host = default_world().host(made[0].options()["host"])

        def found() -> bool:
            for each in host.ours():
                if each.state == "running":
                    with suppress(errors.InvalidRequest):  # it has gone off meanwhile
                        host.crash(each.uuid)
            return (tmp_path / "violations.jsonl").exists()

        def meddle(*_: object) -> None:
            wait_until(found, timeout=120, what="a client finds that somebody meddles")

        fault = made[0].faults()[0]
        monkeypatch.setattr(
            made[0], "faults", lambda: [type(fault)("somebody meddles", meddle, lambda: None, 0.1)]
        )
        assert not soak.run(1)
    assert any("possible is running" in each for each in soak.violations)


def test_a_success_without_a_change_waits_for_nothing() -> None:
    model = Expected(known=True)
    model.succeeded("spawn")
    model.failed("pause", errors.OutcomeUnknown("lost"))
    model.seen(S.RUNNING, "get")
    model.succeeded("detach_volume")  # it was not attached
    model.seen(S.PAUSED, "get")
    model.succeeded("unpause")
    with pytest.raises(Violation, match="get shows paused"):
        model.seen(S.PAUSED, "get")


def test_a_volume_that_is_attached_again_while_it_leaves() -> None:
    """The guest may let go all the same, and the next start has it; without that wish it must not
    come back."""
    model = Expected(known=True)
    model.attached = {"a": True, "b": True}
    for volume in ("a", "b"):
        model.device_kept(volume)
    model.device_set("a", attached=True, sure=True)
    model.seen_whole(_info())
    model.seen_whole(_info("a"))
    with pytest.raises(Violation, match="b should be not attached"):
        model.seen_whole(_info("a", "b"))


def test_a_volume_that_a_client_was_detaching_when_it_was_killed() -> None:
    """The guest lets go of it, and nobody is there to change the definition."""
    model = Expected(known=False)
    model.attached = {"a": None}
    model.taken_over(["a"])
    model.seen_whole(_info())
    model.seen_whole(_info("a"))
    model.device_set("a", attached=False, sure=True)
    with pytest.raises(Violation, match="a should be not attached"):
        model.seen_whole(_info("a"))


def test_a_name_that_was_set_and_one_that_may_come() -> None:
    model = Expected(known=True)
    model.value_set("name", "a", sure=True)
    model.value_set("name", "b", sure=False)
    model.seen_whole(_info(name="a"))
    model.seen_whole(_info(name="b"))  # the host was still at it
    with pytest.raises(Violation, match="name is 'c', possible is"):
        model.seen_whole(_info(name="c"))
    model.value_set("name", "d", sure=True)
    with pytest.raises(Violation, match="name is 'a', possible is"):
        model.seen_whole(_info(name="a"))


def test_a_rebuild_after_one_that_was_interrupted() -> None:
    """It lets a machine run that the first one has switched off."""
    model = Expected(known=True)
    model.succeeded("spawn")
    model.failed("rebuild", errors.OutcomeUnknown("lost"))
    model.seen(S.STOPPED, "get")
    model.succeeded("rebuild")
    model.seen(S.RUNNING, "get")
    model.succeeded("power_off")
    model.succeeded("rebuild")
    with pytest.raises(Violation, match="get shows running"):
        model.seen(S.RUNNING, "get")


def _info(*volumes: str, name: str = "x", nic: str | None = None) -> InstanceInfo:
    return InstanceInfo.model_construct(
        name=name,
        flavor=Flavor(vcpus=1, memory_mib=64),
        metadata={},
        volumes=tuple(AttachedVolume.model_construct(volume_id=each) for each in volumes),
        vifs=(AttachedVif.model_construct(id=nic),) if nic else (),
    )


def test_a_nic_that_must_be_there() -> None:
    model = Expected(known=True)
    model.attached = {"nic": False}
    model.succeeded("spawn")
    model.device_set("nic", True, sure=True)
    model.seen_whole(_info(nic="nic"))
    with pytest.raises(Violation, match="nic should be attached"):
        model.seen_whole(_info())


def test_a_disk_that_the_guest_was_asked_for_and_that_holds_another_volume_now() -> None:
    """The guest lets go of it at its next reset, whatever is in it."""
    model = Expected(known=True)
    model.attached = {"a": False, "spare": False}
    model.succeeded("spawn")
    model.device_set("a", True, sure=True)
    model.device_kept("a")
    model.device_swapped("a", "spare", sure=True)
    model.seen_whole(_info("spare"))
    model.seen_whole(_info())
    model.device_swapped("spare", "a", sure=True)
    with pytest.raises(Violation, match="a should be attached"):
        model.seen_whole(_info())


def test_snapshots_that_must_be_there() -> None:
    model = Expected(known=True)
    model.succeeded("spawn")
    model.snapshots.made("a", True)
    model.snapshots.made("b", False)
    model.snapshots.seen({"a"})
    with pytest.raises(Violation, match="nobody made them"):
        model.snapshots.seen({"a", "b"})
    with pytest.raises(Violation, match="have gone"):
        model.snapshots.seen(set())
    model.snapshots.deleted({"a"}, None)
    model.snapshots.seen(set())
    model.snapshots.seen({"a"})  # no read tells that nothing comes any more
    model.succeeded("destroy")
    with pytest.raises(Violation, match="nobody made them"):
        model.snapshots.seen({"a"})


def test_snapshots_of_a_client_that_was_killed() -> None:
    model = Expected(known=False)
    model.snapshots.seen({"a"})
    with pytest.raises(Violation, match="have gone"):
        model.snapshots.seen(set())


def test_a_revert_tells_the_state() -> None:
    for with_memory, state in ((False, S.RUNNING), (True, S.STOPPED)):
        model = Expected(known=True)
        model.succeeded("spawn")
        model.succeeded("revert_snapshot")
        model.reverted(with_memory=with_memory)
        with pytest.raises(Violation, match="get shows"):
            model.seen(state, "get")


def test_a_machine_stands_still_while_its_memory_is_written() -> None:
    model = Expected(known=True)
    model.succeeded("spawn")
    model.failed("create_snapshot", errors.OutcomeUnknown("lost"))
    model.seen(S.PAUSED, "get")
    model.seen(S.RUNNING, "get")
    with pytest.raises(Violation, match="stopped"):
        model.seen(S.STOPPED, "get")


def test_what_the_soak_itself_cannot_do_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that ended in silence would leave a soak that finds nothing."""

    def fail(_: Worker) -> None:
        raise AttributeError("a slip")

    monkeypatch.setattr(Worker, "step", fail)
    with hosts("fake", 1) as made:
        soak = Soak(made, seed=11, clients=1, threads=1, timeout=20, folder=tmp_path)
        assert not soak.run(1)
    assert any("the soak itself failed" in each for each in soak.violations)


def test_a_stream_that_says_something_else_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """watch() tells of a state that is not the machine's, and nothing corrects it."""
    monkeypatch.setattr("tests.soak.client.SETTLED", 1.0)
    monkeypatch.setattr(Client, "_keep", lambda self, states, event: None)
    with hosts("fake", 1) as made:
        soak = Soak(made, seed=11, clients=1, threads=2, timeout=20, folder=tmp_path)
        assert not soak.run(2)
    assert any("watch() says" in each for each in soak.violations)


def test_a_refusal_does_not_tell_that_nothing_will_come() -> None:
    """It is a read, and the host may still be at what was lost."""
    model = Expected(known=True)
    model.succeeded("spawn")
    model.succeeded("pause")
    model.failed("suspend", errors.OutcomeUnknown("lost"))
    model.seen(S.PAUSED, "get")
    model.failed("resume", errors.InvalidState("paused"))
    model.seen(S.SUSPENDED, "get")
    with pytest.raises(Violation, match="possible is suspended"):
        model.seen(S.PAUSED, "get")


def test_what_comes_late_although_it_was_possible_already() -> None:
    """A client took over, and does not know the state: seen() must not forget what may come."""
    model = Expected(known=False)
    model.succeeded("set_metadata")  # so nothing of the other client is under way
    model.failed("pause", errors.InvalidState("no"))
    model.failed("power_on", errors.OutcomeUnknown("lost"))
    model.seen(S.STOPPED, "get")
    model.seen(S.RUNNING, "get")
    with pytest.raises(Violation, match="possible is running"):
        model.seen(S.STOPPED, "get")


def test_a_failed_rescue_starts_the_machine_again() -> None:
    model = Expected(known=True)
    model.succeeded("spawn")
    model.failed("rescue", errors.OutcomeUnknown("lost"))
    model.seen(S.STOPPED, "get")
    model.seen(S.RUNNING, "get")
    model.succeeded("set_metadata")  # it waits for what is under way
    model.succeeded("power_off")
    with pytest.raises(Violation, match="possible is stopped"):
        model.seen(S.RUNNING, "get")


def test_a_spawn_of_an_instance_that_may_be_there() -> None:
    model = Expected(known=False)
    model.failed("spawn", errors.OutcomeUnknown("lost"))
    model.seen(None, "get")
    model.seen(S.RUNNING, "get")


def test_a_rescue_that_ends_with_a_fault_may_be_taken_back_later() -> None:
    model = Expected(known=True)
    model.succeeded("spawn")
    model.failed("rescue", errors.HypervisorFault("the log daemon is away"))
    model.seen(S.STOPPED, "get")
    model.seen(S.RUNNING, "get")
