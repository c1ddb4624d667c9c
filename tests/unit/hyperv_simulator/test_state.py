"""Files, the clock, the event log and fault rules of the simulated host."""

from __future__ import annotations

from pathlib import Path

import pytest

from hvdrivers.hyperv.simulator.cmdlets.call import like
from hvdrivers.hyperv.simulator.errors import MESSAGES, CmdletError
from hvdrivers.hyperv.simulator.faults import FaultRules
from hvdrivers.hyperv.simulator.state.eventlog import EVENTS, WORKER, EventLog
from hvdrivers.hyperv.simulator.state.files import WindowsFiles
from hvdrivers.hyperv.simulator.state.world import World


def test_letter_case_is_ignored_where_a_file_exists(tmp_path: Path) -> None:
    files = WindowsFiles(tmp_path)
    (tmp_path / "VMs").mkdir()
    (tmp_path / "VMs" / "Disk.vhdx").touch()
    assert files.file("c:\\vms\\DISK.VHDX") == tmp_path / "VMs" / "Disk.vhdx"
    assert files.file("C:\\VMs\\new.vhdx") == tmp_path / "VMs" / "new.vhdx"
    assert files.windows(tmp_path / "VMs" / "Disk.vhdx") == "C:\\VMs\\Disk.vhdx"


@pytest.mark.parametrize(
    "path",
    [
        "C:\\a\\CON",
        "C:\\a\\con.txt",
        "C:\\a\\LPT1",
        "C:\\a\\b.",
        "C:\\a\\b ",
        "C:\\a\\b?c",
        "C:\\a\\b:c",
        "C:\\..\\etc\\passwd",
        "C:\\a\\\x07",
        "C:\\a|b",
    ],
)
def test_names_that_windows_refuses(tmp_path: Path, path: str) -> None:
    with pytest.raises(CmdletError) as caught:
        WindowsFiles(tmp_path).file(path)
    assert caught.value.hresult == 0x8007007B


def test_who_may_open_a_share(tmp_path: Path) -> None:
    goes_on = [False]
    files = WindowsFiles(tmp_path, lambda: goes_on[0])
    path = "\\\\server\\share\\x.vhdx"
    share = files.share("server", "share", tmp_path)

    def refusal(**who: bool) -> int | None:
        try:
            files.ask(path, **who)
        except CmdletError as error:
            return error.hresult
        return None

    assert refusal() == 0x80070005
    assert refusal(user=False, computer=True) is None  # the host itself needs no credentials
    goes_on[0] = True
    assert refusal(computer=True) is None
    assert files.windows(files.file(path)) == "C:\\x.vhdx"  # the share is on this drive
    share.computer = False
    assert (refusal(), refusal(computer=True)) == (None, 0x80070005)
    share.user = False
    assert refusal() == 0x80070005
    files.unshare("server", "share")
    assert refusal() == 0x80070043
    with pytest.raises(CmdletError):
        files.file(path)


@pytest.mark.parametrize(
    ("text", "pattern", "matches"),
    [
        ("vm1", "vm[1-3]", True),
        ("vm[1]", "vm[1]", False),
        ("vm[1]", "vm`[1`]", True),
        ("VM", "vm", True),
        ("abc", "a*", True),
        ("a.c", "a?c", True),
    ],
)
def test_wildcards_are_those_of_powershell(text: str, pattern: str, matches: bool) -> None:
    assert like(text, pattern) is matches


def test_the_clock_runs_actions_in_order_and_survives_one_that_fails() -> None:
    world = World()
    seen: list[int] = []
    try:
        world.after(0.02, lambda: seen.append(2))
        world.after(0.01, lambda: seen.append(1 // 0))
        world.after(0.005, lambda: seen.append(1))
        with world.lock:
            assert world.wait_for(lambda: len(seen) == 2, 60)
        assert seen == [1, 2]
    finally:
        world.close()


def test_records_are_numbered_within_their_log_and_old_ones_fall_out() -> None:
    log = EventLog(limit=2)
    for _ in range(3):
        log.write("started", "n", "ID")
    log.write("created", "n", "ID")
    assert [record.number for record in log.records[WORKER]] == [2, 3]
    assert "Virtual machine ID ID" in log.records[WORKER][0].message
    assert len({event for _, event, _ in EVENTS.values()}) == len(EVENTS)


def test_rules_meet_the_calls_that_they_name() -> None:
    rules = FaultRules()
    rules.fail("New-VM", calls=(2, 3))
    rules.slow("New-VM", before=1)
    met = [[rule.error is not None for rule in rules.meet("New-VM")] for _ in range(4)]
    assert met == [[False], [True, False], [True, False], [False]]
    assert rules.meet("Get-VM") == []
    assert rules.counts == {"New-VM": 4, "Get-VM": 1}


def test_every_message_is_in_both_languages() -> None:
    assert all(set(texts) == {"en", "de"} for texts in MESSAGES.values())
