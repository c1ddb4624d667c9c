"""How a failure is told: ``error:``, ``hint:``, ``cause:`` on standard error, and a JSON object."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import unquote, urlsplit

import typer

from hvdrivers.cli.codes import ExitCode, code_of
from hvdrivers.cli.text import shown
from hvdrivers.cli.wording import in_commands
from hvdrivers.contract import errors
from hvdrivers.invalid import plain

# Typer names only the lowest class of what its parser raises; the root is two steps up, in the
# parser that newer releases bring along as in the click that older ones depend on.
PARSER_ERROR: type[Exception] = typer.BadParameter.__mro__[2]

_CAUSES = 8  # a chain longer than this has a loop or tells nothing new


class CommandError(Exception):
    """A failure of the command itself, not of a driver."""

    def __init__(
        self, message: str, *, code: ExitCode = ExitCode.FAILED, hint: str | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.hint = hint


class BadUsageError(CommandError):
    """The arguments are wrong."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message, code=ExitCode.USAGE, hint=hint)


def blot(text: str, secrets: Collection[str]) -> str:
    """``text`` without the secrets."""
    if not secrets:
        return text
    from hvdrivers.redact import blot as blot_out  # it needs pydantic, --help need not

    return blot_out(text, secrets)


def say(text: str) -> None:
    """Talk: one or more lines on standard error."""
    sys.stderr.write(f"{shown(text, lines=True)}\n")
    sys.stderr.flush()


def secrets_of_url(host: str) -> frozenset[str]:
    """The password in a URL, as it stands there and as it is meant."""
    try:
        password = urlsplit(host).password
    except ValueError:
        return frozenset()
    return frozenset({password, unquote(password)}) if password else frozenset()


def exit_code(error: BaseException) -> ExitCode:
    """The exit status for whatever was raised."""
    if isinstance(error, CommandError):
        return error.code
    if isinstance(error, PARSER_ERROR):
        return ExitCode.USAGE
    if isinstance(error, KeyboardInterrupt):
        return ExitCode.INTERRUPTED
    return code_of(error)


def describe(error: BaseException, secrets: Collection[str] = ()) -> dict[str, Any]:
    """The error as data: what ``-o json`` writes."""
    described: dict[str, Any] = {"type": type(error).__name__, "message": _message(error)}
    if isinstance(error, errors.HypervisorError):
        for name in ("operation", "host", "instance", "vendor_code", "retryable"):
            value = getattr(error, name)
            described[name] = value if isinstance(value, bool | None) else str(value)
    described["hint"] = _hint(error)
    # the parser's own cause has nothing but the name of a function in it
    causes = () if isinstance(error, PARSER_ERROR) else _causes(error)
    described["causes"] = [_one_line(cause) for cause in causes]
    described["exit_code"] = int(exit_code(error))
    return {key: _blotted(value, secrets) for key, value in described.items()}


def tell(
    error: BaseException, *, as_json: bool, debug: bool, secrets: Collection[str] = ()
) -> ExitCode:
    """Write the error to standard error.

    Args:
        as_json: also one line with the JSON object, the last one.
        debug: first the traceback. Its frames show code and no values.

    Returns:
        The exit status.
    """
    if debug:
        say(blot("".join(traceback.format_exception(error)).rstrip(), secrets))
    described = describe(error, secrets)
    text = str(error) if isinstance(error, errors.HypervisorError) else described["message"]
    say(f"error: {_joined(blot(text, secrets))}")
    if described["hint"]:
        say(f"hint: {_joined(described['hint'])}")
    for cause in described["causes"]:
        say(f"cause: {_joined(cause)}")
    if as_json:
        say(json.dumps({"error": described}))
    return exit_code(error)


def _joined(text: str) -> str:
    # one line, so that nothing inside of a message can pass for another line of ours
    return " ".join(text.split()) if text.isprintable() else " ".join(shown(text).split())


def _blotted(value: Any, secrets: Collection[str]) -> Any:
    if isinstance(value, str):
        return blot(value, secrets)
    if isinstance(value, list):
        return [blot(item, secrets) for item in value]
    return value


def _message(error: BaseException) -> str:
    if isinstance(error, errors.HypervisorError):
        return error.message
    if isinstance(error, PARSER_ERROR):
        return plain(str(getattr(error, "format_message", error.__str__)()))
    if isinstance(error, CommandError):
        return str(error)
    return _one_line(error)


def _hint(error: BaseException) -> str | None:
    if isinstance(error, errors.HypervisorError | CommandError):
        return in_commands(error.hint)
    context = getattr(error, "ctx", None)
    if isinstance(error, PARSER_ERROR) and context is not None:
        return f"{context.command_path} --help"
    if isinstance(error, PARSER_ERROR):
        return "hvdrivers --help"
    if isinstance(error, OSError):
        return None
    return "this is a bug in hvdrivers: --debug shows where"


def _one_line(error: BaseException) -> str:
    if isinstance(error, errors.HypervisorError):
        return f"{type(error).__name__}: {error.message}"
    if isinstance(error, OSError) and error.strerror:
        return ": ".join(str(part) for part in (error.filename, error.strerror) if part)
    return f"{type(error).__name__}: {error}"


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen = {id(error)}
    while (cause := error.__cause__) is not None and id(cause) not in seen and len(seen) < _CAUSES:
        yield cause
        seen.add(id(cause))
        error = cause


class _Lines(logging.Handler):
    """Log lines on standard error, safe to show."""

    def __init__(self, level: int, secrets: Collection[str]) -> None:
        super().__init__(level)
        self._secrets = secrets
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        try:
            say(blot(self.format(record), self._secrets))
        except Exception:  # noqa: BLE001 - a log line must not end the command
            self.handleError(record)


@contextmanager
def operations_log(*, verbose: bool, debug: bool, secrets: Collection[str]) -> Iterator[None]:
    """Show the library's log: every change with ``-v``, every call with ``--debug``."""
    level = logging.DEBUG if debug else logging.INFO
    logger = logging.getLogger("hvdrivers")
    # Without any handler Python writes warnings to standard error by itself: not safe to show, and
    # told again by the error.
    handler = _Lines(level, secrets) if verbose or debug else logging.NullHandler()
    before = logger.level
    logger.addHandler(handler)
    if verbose or debug:
        logger.setLevel(level)
    try:
        yield
    finally:
        logger.setLevel(before)
        logger.removeHandler(handler)
