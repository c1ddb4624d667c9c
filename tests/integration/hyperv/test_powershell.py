"""The PowerShell that is kept open: requests, deadlines, and each way to lose a message."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hvdrivers.contract import errors
from hvdrivers.driverkit.deadline import Deadline
from hvdrivers.driverkit.seam import NotSent, ReplyLost
from hvdrivers.hyperv import powershell
from hvdrivers.hyperv.config import HypervConfig
from hvdrivers.hyperv.errors import ScriptError
from hvdrivers.hyperv.library import bootstrap
from hvdrivers.hyperv.powershell import PowerShell
from hvdrivers.hyperv.simulator.wsman import WsmanServer
from hvdrivers.hyperv.simulator.wsman_faults import FaultRule, Strike
from hvdrivers.hyperv.wire import ShellLost
from tests.integration.hyperv.conftest import OTHER_PASSWORD
from tests.peers.waiting import wait_until

FUNCTIONS = r"""
function Invoke-HvEcho { param($Arguments) $Arguments }
function Invoke-HvStanding {
    param($Arguments)
    [IO.File]::WriteAllText($Arguments.begun, '')
    while (-not [IO.File]::Exists($Arguments.over)) { Start-Sleep -Milliseconds 10 }
}
function Invoke-HvCount { param($Arguments) $HvShared.Facts['n'] += 1; $HvShared.Facts['n'] }
function Invoke-HvSize {
    param($Arguments)
    [Convert]::FromBase64String($Arguments.data).Length
}
function Invoke-HvWhere { param($Arguments) [runspace]::DefaultRunspace.InstanceId.ToString() }
function Invoke-HvImages { param($Arguments) Invoke-HvWhere }
function Invoke-HvExport { param($Arguments) Invoke-HvWhere }
function Invoke-HvStack { param($Arguments) , @((Get-PSCallStack).Command) }
function Invoke-HvJobs { param($Arguments) $HvShared.Jobs.Count }
function Invoke-HvNoise {
    param($Arguments)
    [Console]::Out.WriteLine('HV1 wrong 1 reply e30=')
    [Console]::Out.WriteLine('a line of something else')
    'still there'
}
function Invoke-HvUndone {
    param($Arguments)
    try { Open-Hv { Start-Sleep -Milliseconds $Arguments.ms } }
    finally { $HvShared.Facts['n'] = 100 }
}
function Invoke-HvHeld {
    param($Arguments)
    while (-not [IO.File]::Exists($Arguments.file)) { Start-Sleep -Milliseconds 10 }
    $HvShared.Facts['n'] = 200
    Assert-HvBudget
}
"""


@pytest.fixture(autouse=True)
def _more_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    text = powershell.library() + FUNCTIONS
    monkeypatch.setattr(powershell, "library", lambda: text)


@pytest.fixture
def shell(config: Callable[..., HypervConfig]) -> Iterator[PowerShell]:
    opened = PowerShell.open(config(), 60)
    yield opened
    opened.close()


def test_the_bootstrap_fits_the_command_line_of_cmd() -> None:
    assert len(f"powershell -NoProfile -NonInteractive -EncodedCommand {bootstrap()}") < 8191 - 1000


@pytest.mark.parametrize(
    "text",
    [
        "\u2019\u2018\u201a\u201b'\"`$(New-Item pwned)",
        "line\nbreak\r\n\ttab",
        "*?[a]",
        "/Date(0)/",
        "\\/Date(0)\\/",
        "",
        "=",
        "x" * 10_000,
        "\U0001f600 ä \u2028",
        "@{a=1}; exit",
    ],
)
def test_text_stays_data(shell: PowerShell, text: str) -> None:
    sent = {"text": text, "list": [text, 1, None, True], "table": {"inner": text}}
    assert shell.request("Echo", sent, Deadline(60)) == sent


def test_an_array_of_one_and_of_none_stay_arrays(shell: PowerShell) -> None:
    sent = {"one": ["a"], "none": [], "nested": [["a"], []]}
    assert shell.request("Echo", sent, Deadline(60)) == sent


def test_an_unknown_function_is_an_error_with_its_codes(shell: PowerShell) -> None:
    with pytest.raises(ScriptError) as caught:
        shell.request("Nothing", {}, Deadline(60))
    assert caught.value.id == "CommandNotFoundException"


def test_no_text_is_compiled_for_a_request(shell: PowerShell) -> None:
    """Text that is run is a script block in the stack of calls, and is parsed each time."""
    stack = shell.request("Stack", {}, Deadline(60))
    assert stack == ["Invoke-HvStack", "Invoke-HvRequest", "Start-HvRequest"]


@contextmanager
def standing(shell: PowerShell, folder: Path) -> Iterator[None]:
    """A request that the host works on for the length of the block."""
    begun, over = folder / "begun", folder / "over"
    arguments = {"begun": str(begun), "over": str(over)}
    request = threading.Thread(target=shell.request, args=("Standing", arguments, Deadline(600)))
    request.start()
    try:
        wait_until(begun.exists, timeout=120, what="the request is under way")
        yield
        assert request.is_alive()
    finally:
        over.touch()
        request.join(600)


def test_requests_run_beside_each_other(shell: PowerShell, tmp_path: Path) -> None:
    shell.request("Ping", {}, Deadline(60))
    with standing(shell, tmp_path):
        for _ in range(5):
            shell.request("Ping", {}, Deadline(60))


def test_one_request_at_a_time_needs_one_runspace(shell: PowerShell, tmp_path: Path) -> None:
    """Each further one takes its time to open, and loads the module of the host once more."""
    shell.request("Ping", {}, Deadline(60))
    kinds = ("Where", "Images", "Export")  # a change, a look, a long one
    first = {shell.request(kind, {}, Deadline(60)) for kind in kinds}
    assert len(first) == 1
    with standing(shell, tmp_path):
        assert shell.request("Where", {}, Deadline(60)) not in first
    assert shell.request("Where", {}, Deadline(60)) in first


def test_what_has_its_reply_is_forgotten(shell: PowerShell) -> None:
    """Each request looked at all that had been before it, and none of them was given back."""
    for _ in range(50):
        shell.request("Ping", {}, Deadline(60))
    assert 1 <= shell.request("Jobs", {}, Deadline(60)) <= 3  # it counts itself


@pytest.mark.parametrize("action", ["Send", "Receive"])
@pytest.mark.parametrize(
    "strike",
    [Strike.CUT_BEFORE, Strike.CUT_AFTER, Strike.UNAUTHORISED, Strike.SERVER_ERROR],
)
@pytest.mark.parametrize("authentication", ["basic", "ntlm"])
def test_a_lost_message_is_not_seen_by_the_caller(
    service: WsmanServer,
    config: Callable[..., HypervConfig],
    strike: Strike,
    action: str,
    authentication: str,
) -> None:
    shell = PowerShell.open(config(authentication=authentication), 60)
    try:
        shell.request("Count", {}, Deadline(60))
        with service.faults.add(FaultRule(strike, action=action)) as rule:
            # the function runs once, though its line may be sent twice
            assert shell.request("Count", {}, Deadline(60)) == 2
            assert shell.request("Count", {}, Deadline(60)) == 3
        assert rule.hits == 1
    finally:
        shell.close()


def test_a_shell_that_died_before_the_request_is_told_apart(
    service: WsmanServer, shell: PowerShell
) -> None:
    shell.request("Ping", {}, Deadline(60))
    rule = FaultRule(Strike.SHELL_LOST, action="Send")
    with service.faults.add(rule), pytest.raises(ShellLost):
        shell.request("Ping", {}, Deadline(60))
    assert not shell.alive


def test_a_shell_that_died_with_the_reply_is_told_apart(
    service: WsmanServer, shell: PowerShell
) -> None:
    shell.request("Ping", {}, Deadline(60))
    rule = FaultRule(Strike.SHELL_LOST_AFTER, action="Send")
    with service.faults.add(rule), pytest.raises(ReplyLost):
        shell.request("Ping", {}, Deadline(60))
    assert not shell.alive


def test_at_the_deadline_the_host_undoes_what_it_has_begun(shell: PowerShell) -> None:
    shell.request("Ping", {}, Deadline(60))
    with pytest.raises(ScriptError) as caught:
        shell.request("Undone", {"ms": 60_000}, Deadline(0.5))
    assert caught.value.id == "Hv.Stopped"
    assert shell.request("Count", {}, Deadline(60)) == 101  # the undo has run
    assert shell.alive


def test_a_call_of_the_host_is_not_stopped_in_the_middle(
    shell: PowerShell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends after the deadline, and the caller learns what came of it, or that nobody knows."""
    shell.request("Ping", {}, Deadline(60))
    gate = tmp_path / "gate"
    monkeypatch.setattr(powershell, "_GRACE", 0.5)
    with pytest.raises(ReplyLost):
        shell.request("Held", {"file": str(gate)}, Deadline(3))
    assert shell.alive  # the host has said that it works: other requests are not lost with it
    assert shell.request("Count", {}, Deadline(60)) == 1
    gate.touch()
    deadline = Deadline(60)
    while shell.request("Count", {}, Deadline(60)) < 200:
        assert not deadline.passed
    gate.unlink()
    monkeypatch.setattr(powershell, "_GRACE", 600)
    opening = threading.Timer(0.5, gate.touch)
    opening.start()
    with pytest.raises(ScriptError) as caught:
        shell.request("Held", {"file": str(gate)}, Deadline(0.3))
    assert caught.value.id == "Hv.Deadline"
    opening.join()


def test_a_request_that_arrives_too_late_is_not_run(
    service: WsmanServer, shell: PowerShell
) -> None:
    assert shell.request("Count", {}, Deadline(60)) == 1
    rule = FaultRule(Strike.STALL, action="Send", seconds=2.0)
    # on a busy machine the deadline passes before anything is sent, or the grace behind it
    with service.faults.add(rule), pytest.raises((ScriptError, NotSent, ReplyLost)) as caught:
        shell.request("Count", {}, Deadline(0.3))
    if isinstance(caught.value, ScriptError):
        assert caught.value.id in {"Hv.Stopped", "Hv.Deadline"}
    assert shell.request("Count", {}, Deadline(60)) == 2


def test_a_request_behind_one_that_the_host_does_not_take_keeps_its_deadline(
    service: WsmanServer, shell: PowerShell
) -> None:
    """It is given up and never runs, and the process stays."""
    assert shell.request("Count", {}, Deadline(60)) == 1
    answers: list[object] = []
    first = threading.Thread(
        target=lambda: answers.append(shell.request("Count", {}, Deadline(600)))
    )
    rule = FaultRule(Strike.STALL, action="Send", seconds=600)
    with service.faults.add(rule):
        first.start()
        while rule.hits == 0:
            threading.Event().wait(0.01)
        for seconds in (0.0, 0.3):
            with pytest.raises(NotSent):
                shell.request("Count", {}, Deadline(seconds))
        rule.over.set()
    first.join(600)
    assert answers == [2]
    assert shell.request("Count", {}, Deadline(60)) == 3
    assert shell.alive


def test_a_large_request_goes_in_pieces_and_survives_a_cut(
    service: WsmanServer, shell: PowerShell
) -> None:
    data = bytes(range(256)) * 2000
    assert shell.request("Size", {}, Deadline(60), data=data) == len(data)
    with service.faults.add(FaultRule(Strike.CUT_AFTER, action="Send", nth=3)) as rule:
        assert shell.request("Size", {}, Deadline(60), data=data) == len(data)
    assert rule.hits == 1


class _Receives:
    """Whether a Receive waits on the host: one came that has brought nothing so far."""

    def __init__(self, service: WsmanServer, rule: FaultRule) -> None:
        self._service = service
        self._rule = rule
        self._before = self._count()

    def _count(self) -> int:
        return self._service.faults.counts().get("Receive", 0)

    def wait_for_one(self) -> None:
        self._wait(lambda: self._count() - self._before > self._rule.hits)

    def cut(self) -> None:
        """Cut those that wait, and wait for the one that the driver sends then."""
        before = self._count()
        self._service.cut_connections()
        self._wait(lambda: self._count() > before)

    @staticmethod
    def _wait(condition: Callable[[], bool]) -> None:
        deadline = Deadline(60)
        while not condition():
            assert not deadline.passed
            threading.Event().wait(0.01)


@pytest.fixture
def receives(service: WsmanServer) -> Iterator[_Receives]:
    with service.faults.add(FaultRule(Strike.STALL, contains=b"HV1", nth=None)) as rule:
        yield _Receives(service, rule)


def test_a_receive_that_nobody_reads_any_more_takes_no_reply_along(
    service: WsmanServer, receives: _Receives, shell: PowerShell
) -> None:
    shell.request("Ping", {}, Deadline(60))
    with service.faults.add(FaultRule(Strike.STALL, contains=b" stop ", nth=None)) as stop:
        for number in range(1, 7):  # the old Receive and the new one race for each reply
            receives.wait_for_one()
            receives.cut()
            assert shell.request("Count", {}, Deadline(60)) == number
    assert stop.hits == 0  # no reply came only when the deadline had passed


def test_a_receive_that_nobody_reads_any_more_does_not_end_the_start(
    service: WsmanServer,
    receives: _Receives,
    config: Callable[..., HypervConfig],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    gate = tmp_path / "gate"
    text = powershell.library()
    text += f"\nwhile (-not [IO.File]::Exists('{gate}')) {{ Start-Sleep -Milliseconds 20 }}\n"
    monkeypatch.setattr(powershell, "library", lambda: text)

    def cut() -> None:
        receives.wait_for_one()
        service.cut_connections()
        gate.touch()

    cutting = threading.Thread(target=cut)
    cutting.start()
    shell = PowerShell.open(config(), 60)
    cutting.join(60)
    assert shell.request("Count", {}, Deadline(60)) == 1
    shell.close()


def test_the_end_of_a_shell_does_not_wait_for_a_host_that_is_silent(
    service: WsmanServer, config: Callable[..., HypervConfig]
) -> None:
    shell = PowerShell.open(config(), 60)
    with service.faults.add(FaultRule(Strike.STALL, action="Delete", seconds=600)) as rule:
        closing = threading.Thread(target=shell.close)
        closing.start()
        while rule.hits == 0:
            threading.Event().wait(0.01)
        closing.join(600)
        # the Receive is still under way: nothing waited for it
        assert not closing.is_alive()
        assert "hvdrivers-hyperv-receive" in {each.name for each in threading.enumerate()}
    service.kill_shells()


def test_other_output_on_the_console_is_passed_over(shell: PowerShell) -> None:
    assert shell.request("Noise", {}, Deadline(60)) == "still there"


def test_close_leaves_no_thread_and_no_shell(
    service: WsmanServer, config: Callable[..., HypervConfig]
) -> None:
    before = {each.name for each in threading.enumerate()}
    shell = PowerShell.open(config(), 60)
    began = time.monotonic()
    shell.close()
    assert time.monotonic() - began < 15
    assert "hvdrivers-hyperv-receive" not in {each.name for each in threading.enumerate()} - before
    assert not service.shells()


def test_a_host_that_is_not_there_is_told_at_once(config: Callable[..., HypervConfig]) -> None:
    with pytest.raises(errors.ConnectionFailed):
        PowerShell.open(config(port=1), 30)


@pytest.mark.parametrize("authentication", ["basic", "ntlm"])
def test_a_user_and_a_password_of_other_letters(
    config: Callable[..., HypervConfig], authentication: str
) -> None:
    given = {"username": "Änne", "password": OTHER_PASSWORD, "authentication": authentication}
    PowerShell.open(config(**given), 60).close()


def test_what_powershell_says_before_it_ends_is_told(
    config: Callable[..., HypervConfig], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = tmp_path / "pwsh"
    broken.write_text("#!/bin/sh\necho 'libicu is missing' >&2\nexit 2\n")
    broken.chmod(0o755)
    monkeypatch.setenv("HVDRIVERS_PWSH", str(broken))
    with WsmanServer(users={"Administrator": "pw"}) as server:
        there = config(port=server.port, password="pw")
        with pytest.raises(errors.ConnectionFailed) as caught:
            PowerShell.open(there, 60)
    assert "libicu is missing" in (caught.value.hint or "")


def test_a_wrong_password_is_authentication_failed(config: Callable[..., HypervConfig]) -> None:
    for authentication in ("basic", "ntlm"):
        with pytest.raises(errors.AuthenticationFailed):
            PowerShell.open(config(password="wrong", authentication=authentication), 30)
