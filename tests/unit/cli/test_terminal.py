"""Real processes, with and without a terminal: clean streams, hostile names, Ctrl-C."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

import pytest

from hvdrivers.cli import main

from .conftest import Runner, script

HOSTILE = "\x1b]0;owned\x07\x1b[31m[bold]red[/bold] \u202egpj"
FOREIGN = f"host.add_foreign(name={HOSTILE!r})"


def in_terminal(
    arguments: Sequence[str],
    *,
    body: str = "",
    typed: bytes = b"",
    env: dict[str, str] | None = None,
) -> tuple[int, str]:
    """Run in a pseudo-terminal of 200 columns; what it shows, both streams together."""
    terminal, theirs = pty.openpty()
    process = subprocess.Popen(  # no fork: other tests may have brought libraries that mind it
        script(body, list(arguments)),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "COLUMNS": "200", "TERM": "xterm", **(env or {})},
        start_new_session=True,
    )
    os.close(theirs)
    shown = b""
    if typed:
        os.write(terminal, typed)
    end = time.monotonic() + 300
    while time.monotonic() < end:
        ready, _, _ = select.select([terminal], [], [], 1)
        if ready:
            try:
                data = os.read(terminal, 65536)
            except OSError:  # the other side has closed it
                break
            if not data:
                break
            shown += data
    os.close(terminal)
    return process.wait(60), shown.decode(errors="replace")


def without_colours(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


@pytest.mark.parametrize("form", ["table", "json", "yaml"])
def test_hostile_names_in_a_pipe(process: Runner, form: str) -> None:
    done = process("list", "fake://box", "--foreign", "-o", form, body=FOREIGN)
    assert done.code == 0, done.err
    assert "\x1b" not in done.out
    assert "\x07" not in done.out
    assert "\u202e" not in done.out
    assert "[bold]" in done.out  # no markup either: it is a name
    if form == "json":
        assert json.loads(done.out)[0]["name"] == HOSTILE


@pytest.mark.parametrize("form", ["table", "json", "yaml"])
def test_hostile_names_in_a_terminal(form: str) -> None:
    code, shown = in_terminal(["list", "fake://box", "--foreign", "-o", form], body=FOREIGN)
    assert code == 0
    plain = without_colours(shown)
    assert "\x1b" not in plain
    assert "\x07" not in plain
    assert "\u202e" not in plain
    assert "[bold]" in plain
    assert "\x1b[31m" not in shown


def test_hostile_arguments_in_errors() -> None:
    code, shown = in_terminal(["show", "fake://box", "\x1b]0;owned\x07"])
    assert code == 1
    assert "\x1b" not in shown
    code, shown = in_terminal(["list", "\x1b[2J[red]x"])
    assert code == 2
    assert "\x1b" not in shown
    code, shown = in_terminal(["\x1b[2J"])
    assert code == 2
    assert "\x1b" not in shown


def test_hostile_error_text() -> None:
    body = f"""
from hvdrivers.contract import errors
host.faults.add(FaultRule(operation="list_instances",
                          error=lambda: errors.HypervisorFault({HOSTILE!r} + "\\nerror: fake")))
"""
    code, shown = in_terminal(["list", "fake://box", "--debug"], body=body)
    assert code == 1
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    assert "\nerror: fake" not in shown.replace("\r", "")[shown.rindex("error: ") :]


def test_colours_only_on_a_terminal(process: Runner) -> None:
    _, coloured = in_terminal(["list", "fake://box"], body="make()")
    assert "\x1b[" in coloured
    _, plain = in_terminal(["list", "fake://box"], body="make()", env={"NO_COLOR": "1"})
    assert "\x1b[3" not in plain
    assert "web1" in plain
    assert "\x1b" not in process("list", "fake://box", body="make()").out


def test_long_lines_stay_whole_in_a_pipe(process: Runner) -> None:
    done = process("list", "fake://box", "--foreign", body=f"host.add_foreign(name={'x' * 300!r})")
    assert "x" * 300 in done.out


# ---- the console ----

CONSOLE = r"""
make()
host.machines[UUID1].write_console("\x1b[1mbold\x1b[0m \x1b]0;owned\x07 \x9b done")
"""


def test_console_log_for_a_pipe_is_the_guests_own(process: Runner) -> None:
    done = process("console-log", "fake://box", "web1", body=CONSOLE)
    assert b"\x1b[1mbold\x1b[0m \x1b]0;owned\x07" in done.raw


def test_console_log_for_a_terminal_is_safe() -> None:
    _, shown = in_terminal(["console-log", "fake://box", "web1"], body=CONSOLE)
    assert "\x1b" not in shown
    assert "\x9b" not in shown
    assert "bold" in shown
    assert "done" in shown
    _, raw = in_terminal(["console-log", "fake://box", "web1", "--raw"], body=CONSOLE)
    assert "\x1b[1mbold" in raw


def test_console_log_in_json_is_lossless(process: Runner) -> None:
    import base64

    done = process("console-log", "fake://box", "web1", "-o", "json", body=CONSOLE)
    assert b"\x1b]0;owned\x07" in base64.b64decode(done.data["data"])
    assert "\x1b" not in done.out


FOLLOW = (
    CONSOLE
    + """
import threading, time
from hvdrivers.cli import console
console.INTERVAL = 0.1
begin = host.round_trips
def later():
    while host.round_trips == begin:  # nobody has looked yet
        time.sleep(0.01)
    host.machines[UUID1].write_console("news")
    seen = host.round_trips
    while host.round_trips < seen + 4:  # it has been looked at again
        time.sleep(0.01)
    with host.connect() as driver:
        driver.destroy(UUID1)
threading.Thread(target=later, daemon=True).start()
"""
)


def test_console_log_is_followed_until_the_instance_is_gone(process: Runner) -> None:
    done = process("console-log", "fake://box", "web1", "--follow", body=FOLLOW)
    assert done.code == 0, done.err
    assert done.raw.count(b"done") == 1
    assert done.raw.count(b"news") == 1
    assert "the instance is gone" in done.err


# ---- streams ----


def test_spawn_keeps_standard_output_clean(process: Runner) -> None:
    done = process(
        *("spawn", "fake://box", "--name", "a", "--image", "host:cirros", "-o", "json", "-v")
    )
    assert done.code == 0, done.err
    assert done.data["name"] == "a"
    assert "spawning a as" in done.err
    assert "operation=spawn" in done.err


def test_without_verbose_a_failure_is_told_once(process: Runner) -> None:
    done = process("power", "on", "fake://box", "11111111-2222-4333-8444-555555555555")
    assert done.code == 1
    assert len(done.err.splitlines()) == 2  # error and hint; no log line


def test_a_reader_that_goes_away(process: Runner) -> None:
    command = script(
        "for n in range(2000): host.add_foreign()", ["list", "fake://box", "--foreign"]
    )
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        running.stdout.readline()
        running.stdout.close()
        errors = running.stderr.read().decode()
        running.wait(30)
    assert "Traceback" not in errors


def test_no_locale_and_strange_names(process: Runner) -> None:
    body = r"host.add_foreign(name='B\u00fcro \u65e5\u672c')"
    env = {**os.environ, "LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    for form in ("table", "json", "yaml"):
        done = process("list", "fake://box", "--foreign", "-o", form, body=body, env=env)
        assert done.code == 0, done.err
    assert (
        process("list", "fake://box", "--foreign", "-o", "json", body=body, env=env).data[0]["name"]
        == "Büro 日本"
    )


# ---- questions ----


@pytest.mark.parametrize(("typed", "code"), [(b"y\n", 0), (b"n\n", 1)])
def test_question_in_a_terminal(typed: bytes, code: int) -> None:
    ended, shown = in_terminal(["destroy", "fake://box", "web1"], body="make()", typed=typed)
    assert ended == code
    assert "to be destroyed" in shown
    assert "go on?" in shown


def test_no_terminal(process: Runner) -> None:
    done = process("destroy", "fake://box", "web1", body="make()")
    assert done.code == 2
    assert "--yes" in done.err


# ---- Ctrl-C ----


def interrupted(
    arguments: Sequence[str], body: str, *, after: str, times: int = 1
) -> tuple[int, str, str]:
    """Run, wait for a line on standard error (or output), and press Ctrl-C."""
    # what a shell runs in the background ignores Ctrl-C, and so would its children
    listens = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    with subprocess.Popen(
        script(listens + body, list(arguments)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        bufsize=1,
    ) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        seen = ""
        stream = running.stderr if after.startswith("spawning") else running.stdout
        for awaited in (after, "Ctrl-C again")[:times]:
            while awaited not in seen:
                line = stream.readline()
                assert line, seen
                seen += line
            time.sleep(0.5)  # from the line to the wait that Ctrl-C ends
            running.send_signal(signal.SIGINT)
        try:
            out, err = running.communicate(timeout=300)
        finally:
            running.kill()
    if stream is running.stderr:
        return running.returncode, out, seen + err
    return running.returncode, seen + out, err


SPAWN = ("spawn", "fake://box", "--name", "a", "--image", "host:cirros")


def test_ctrl_c_in_spawn_that_ends_soon() -> None:
    body = "host.latency['spawn'] = 3.0"
    code, out, err = interrupted(SPAWN, body, after="spawning a as")
    assert code == 130
    assert out == ""
    assert "Ctrl-C again" in err
    assert re.search(r"is there, and running|has been undone", err), err
    assert "Traceback" not in err


def test_ctrl_c_twice_in_spawn_that_hangs() -> None:
    body = "host.latency['spawn'] = 60.0"
    code, out, err = interrupted(SPAWN, body, after="spawning a as", times=2)
    assert code == 130
    assert out == ""
    uuid = re.search(r"spawning a as (\S+)", err)
    assert uuid is not None
    assert f"{uuid[1]} may be there" in err
    assert f"hvdrivers destroy fake://box {uuid[1]}" in err
    assert "Traceback" not in err


def test_lost_reply_of_spawn(process: Runner) -> None:
    body = """
from hvdrivers.contract import errors
lost = lambda: errors.OutcomeUnknown("the reply was lost")
host.faults.add(FaultRule(operation="spawn", when="after", error=lost))
"""
    done = process(*SPAWN, "-o", "json", body=body)
    assert done.code == 6
    assert "hvdrivers destroy fake://box" in done.err
    assert done.error["type"] == "OutcomeUnknown"


def test_ctrl_c_in_the_middle_of_destroy() -> None:
    body = """
from uuid import uuid4
make("a"); make("b", uuid4()); make("c", uuid4())
from hvdrivers.cli import destroy
real = destroy._destroyed
def slow(session, driver, target, *rest):
    if target.name == "b":
        print("now", flush=True)
        host.latency["destroy"] = 30.0
    return real(session, driver, target, *rest)
destroy._destroyed = slow
"""
    call = ("destroy", "fake://box", "a", "b", "c", "--yes")
    code, out, err = interrupted(call, body, after="now")
    assert code == 130
    assert re.search(r" a +destroyed", out)
    assert re.search(r" b +unknown", out)
    assert re.search(r" c +untouched", out)
    assert "Traceback" not in err


def test_ctrl_c_in_events() -> None:
    code, out, err = interrupted(["events", "fake://box"], "", after="resync")
    assert code == 130
    assert "resync 0 instances" in out
    assert "Traceback" not in err


def test_events_are_json_lines(process: Runner) -> None:
    body = """
import threading, time
def later():
    while not host.streams:
        time.sleep(0.01)
    make()
threading.Thread(target=later, daemon=True).start()
"""
    done = process("events", "fake://box", "--count", "3", "-o", "json", body=body)
    assert done.code == 0, done.err
    events = [json.loads(line) for line in done.out.splitlines()]
    assert [each["sequence"] for each in events] == [1, 2, 3]
    assert events[0]["type"] == "resync"
    table = process("events", "fake://box", "--count", "3", body=body)
    assert len(table.out.splitlines()) == 3
    # it ends by itself, without a count: the process's own limit is 300 seconds
    assert process("events", "fake://box", "--for", "0.5").code == 0


def test_module_and_version() -> None:
    for arguments in (["--version"], ["--help"]):
        done = subprocess.run(
            [sys.executable, "-m", "hvdrivers", *arguments],
            capture_output=True,
            text=True,
            check=True,
            timeout=300,
        )
        assert "hvdrivers" in done.stdout
        assert done.stderr == ""


def test_ctrl_c_while_the_command_is_still_read(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before Typer runs: no traceback, and the exit status of every interrupted command."""

    def interrupted(**_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("hvdrivers.cli.app.app", interrupted)
    with pytest.raises(SystemExit) as end:
        main(["list", "fake"])
    assert end.value.code == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_events_end_when_nobody_reads_them() -> None:
    """The reader goes after the first line, and nothing happens on the host any more."""
    with subprocess.Popen(
        script("", ["events", "fake://box"]), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert b"resync" in process.stdout.readline()
        process.stdout.close()
        assert process.wait(300) == 1
        assert process.stderr.read() == b""
