"""The command line of a guest's program, read by real shells."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hvdrivers.contract import errors
from hvdrivers.vmware.guest_line import arguments_of, check_text, program_of

PRINTF = "/usr/bin/printf"
SHELLS = [each for each in map(shutil.which, ("dash", "bash", "sh")) if each]
ARGUMENT = st.text(
    st.one_of(
        st.sampled_from(" \t\n'\"\\$`;&|<>(){}[]*?~#!=%-"),
        st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="\ufffe\uffff"),
    ),
    max_size=12,
)


def started(shell: str, command: list[str], folder: Path) -> bytes:
    """What Tools do: the program in double quotes, then the line, read by a shell."""
    names = {each: f"{folder}/{each} 'of it" for each in ("stdin", "stdout", "stderr")}
    Path(names["stdin"]).write_bytes(b"")
    line = f'"{program_of(command)}" {arguments_of(command, **names)}'
    subprocess.run([shell, "-c", line], check=True, cwd=folder, timeout=30)
    assert Path(names["stderr"]).read_bytes() == b""
    return Path(names["stdout"]).read_bytes()


@pytest.mark.parametrize("shell", SHELLS)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(arguments=st.lists(ARGUMENT, min_size=1, max_size=4))
def test_a_shell_changes_no_argument(shell: str, arguments: list[str], tmp_path: Path) -> None:
    out = started(shell, [PRINTF, r"%s\0", *arguments], tmp_path)
    assert out == b"".join(each.encode() + b"\0" for each in arguments)
    assert {each.name for each in tmp_path.iterdir()} == {
        f"{each} 'of it" for each in ("stdin", "stdout", "stderr")
    }


@pytest.mark.parametrize(
    "command",
    [
        [],
        [""],
        ["echo"],
        ["./echo"],
        ["/tmp/$(id)"],
        ["/tmp/`id`"],
        ['/bin/"; id; "'],
        ["/bin/a\\"],
        ["/bin/echo", "a\0b"],
        ["/bin/echo", "a\rb"],
        ["/bin/echo", "\x1b[2J"],
        ["/bin/echo", "\ud800"],
        ["/bin/echo", "\ufffe"],
        ["/bin/echo\0"],
    ],
)
def test_what_would_not_arrive_is_refused(command: list[str]) -> None:
    with pytest.raises(errors.InvalidRequest) as caught:
        program_of(command)
    assert "id" not in caught.value.message


def test_a_long_line_is_refused() -> None:
    with pytest.raises(errors.InvalidRequest, match="32768"):
        arguments_of(["/bin/echo", "a" * (32 << 10)], stdin="/i", stdout="/o", stderr="/e")


def test_the_refusal_does_not_show_a_secret() -> None:
    with pytest.raises(errors.InvalidRequest) as caught:
        check_text("the password", "hunter2\0")
    assert "hunter2" not in str(caught.value) + str(caught.value.hint)
