"""The command line that VMware Tools give to a guest. No call is made here.

Tools start a program with a line of text. In a Linux guest a shell reads it (``GuestProgramSpec``
in the vSphere Web Services API), which takes the redirections from it too. So each argument is
quoted for the shell, and reaches the program as it is.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

from hvdrivers.contract import errors
from hvdrivers.hints import PROGRAM

_NOT_IN_XML = re.compile("[\0-\x08\x0b-\x1f\ud800-\udfff\ufffe\uffff]")
"""What an XML text does not hold, and the carriage return, which comes out as a line feed."""
_IN_QUOTES = re.compile(r'["$`\\]')
"""What a shell reads between the double quotes that Tools put around the program's path."""
_MOST = 32 << 10
"""Bytes of a line: Tools get it in a message of 64 KiB at most (``GUESTMSG_MAX_IN_SIZE`` in
open-vm-tools)."""


def check_text(what: str, text: str) -> None:
    """Refuse a text that does not reach a guest as it is.

    Raises:
        InvalidRequest: it has such a character. The error does not show the text.
    """
    if _NOT_IN_XML.search(text):
        raise errors.InvalidRequest(
            f"{what} has a control character, or one that is no text",
            hint="vSphere carries it as XML: put the bytes into the program's input",
        )


def program_of(command: Sequence[str]) -> str:
    """The program of a command.

    Raises:
        InvalidRequest: there is none, or it is not named by its absolute path.
    """
    if not command:
        raise errors.InvalidRequest("no program is named", hint=PROGRAM)
    for number, each in enumerate(command):
        check_text(f"argument {number}" if number else "the path of the program", each)
    program = command[0]
    if not program.startswith("/"):
        raise errors.InvalidRequest(
            "VMware Tools start a program by its absolute path", hint="as in /bin/echo"
        )
    if _IN_QUOTES.search(program):
        raise errors.InvalidRequest(
            "VMware Tools start no program whose path has a quotation mark, a dollar sign, a"
            " backquote or a backslash: a shell of the guest would read it",
            hint="start it by a shell: /bin/sh, -c, and the path",
        )
    return program


def arguments_of(command: Sequence[str], *, stdin: str, stdout: str, stderr: str) -> str:
    """The arguments of a command, and where its input and output are, as the guest's shell reads
    them.

    Raises:
        InvalidRequest: they are too long.
    """
    line = " ".join(
        [
            *map(shlex.quote, command[1:]),
            f"< {shlex.quote(stdin)}",
            f"> {shlex.quote(stdout)}",
            f"2> {shlex.quote(stderr)}",
        ]
    )
    size = len(line.encode()) + len(command[0].encode())
    if size > _MOST:
        raise errors.InvalidRequest(
            f"a command line of {size} bytes is longer than {_MOST}, which VMware Tools take",
            hint="put the long part into the program's input",
        )
    return line
