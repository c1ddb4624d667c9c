"""Keep secrets out of what people read: errors, their causes, and log lines.

Vendor libraries put what they were given into their messages. The guard knows every secret of a
call, for models hold them as SecretStr or SecretBytes, and blots them out of whatever comes back:
as they are, as the usual escapes write them, and a secret of several lines line by line.
"""

from __future__ import annotations

import base64
import types
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from html import escape
from urllib.parse import quote

from pydantic import BaseModel, SecretBytes, SecretStr

_BLOT = "**********"
_SHORTEST = 4  # blotting out "a" would make a message unreadable and give the secret's length away
_SHORTEST_LINE = 8  # a script has many short lines that say nothing


class Redacted(Exception):
    """Stands for an exception of another library that held a secret and could not be changed."""


def secrets_in(value: object) -> Iterator[str]:
    """Every secret text inside a value, however deep.

    Looks into models, mappings and collections, and at nothing else: an iterator would be used
    up by looking, and an IPv6 network never ends.
    """
    if isinstance(value, SecretStr):
        yield value.get_secret_value()
    elif isinstance(value, SecretBytes):
        yield value.get_secret_value().decode("utf-8", errors="replace")
    elif isinstance(value, BaseModel):
        for item in vars(value).values():
            yield from secrets_in(item)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from secrets_in(item)
    elif isinstance(value, list | tuple | set | frozenset):
        for item in value:
            yield from secrets_in(item)


def blot(text: str, secrets: Iterable[str]) -> str:
    """``text`` without the secrets."""
    return _blotted(text, _spellings(secrets))


def _blotted(text: str, spellings: Iterable[str]) -> str:
    for spelling in spellings:
        text = text.replace(spelling, _BLOT)
    return text


def _spellings(secrets: Iterable[str]) -> list[str]:
    """How messages may write the secrets, longest first: one may be part of another."""
    found: set[str] = set()
    for secret in secrets:
        if len(secret) < _SHORTEST:
            continue
        parts = [secret, *(line for line in secret.splitlines() if len(line) >= _SHORTEST_LINE)]
        for part in parts:
            # surrogates cannot be encoded, and str.encode() refuses them
            raw = part.encode("utf-8", errors="replace")
            found |= {part, repr(part)[1:-1], escape(part), escape(part, quote=False)}
            found |= {quote(raw), quote(raw, safe=""), base64.b64encode(raw).decode()}
    return sorted((each for each in found if len(each) >= _SHORTEST), key=len, reverse=True)


def blot_error(error: BaseException, secrets: Iterable[str]) -> None:
    """Blot the secrets out of an exception, its attributes, its notes, its causes and contexts.

    An exception that cannot be changed is replaced where it is a cause, by ``Redacted``.
    """
    spellings = _spellings(secrets)
    seen: set[int] = set()
    queue = [error] if spellings else []
    while queue:
        current = queue.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        _clean(current, spellings)
        for link in ("__cause__", "__context__"):
            other = getattr(current, link)
            if other is None:
                continue
            if id(other) not in seen and not _cleanable(other, spellings):
                other = _stand_in(other, spellings)
                _relink(current, link, other)
            queue.append(other)
        if isinstance(current, BaseExceptionGroup):
            queue += current.exceptions


def _clean(error: BaseException, spellings: list[str]) -> None:
    # pyVmomi's faults refuse any assignment: _cleanable() looks at what is left
    with suppress(Exception):
        error.args = tuple(_blot_any(arg, spellings) for arg in error.args)
    for name, value in list(vars(error).items()):
        vars(error)[name] = _blot_any(value, spellings)
    # attributes in C or in slots (OSError.strerror, ImportError.msg): str() shows those, not args
    for cls in type(error).__mro__:
        for name, member in vars(cls).items():
            if isinstance(member, types.MemberDescriptorType | types.GetSetDescriptorType):
                value = getattr(error, name, None)
                if isinstance(value, str | bytes):
                    try:
                        setattr(error, name, _blot_any(value, spellings))
                    except (AttributeError, TypeError):
                        continue  # read-only: _cleanable() looks at what is left


def _cleanable(error: BaseException, spellings: list[str]) -> bool:
    _clean(error, spellings)
    try:
        shown = f"{error!s} {error!r}"
    except Exception:  # noqa: BLE001 - an exception whose text fails shows nothing
        return True
    return not any(spelling in shown for spelling in spellings)


def _stand_in(error: BaseException, spellings: list[str]) -> Redacted:
    stand_in = Redacted(f"{type(error).__qualname__}: {_blotted(str(error), spellings)}")
    stand_in.__traceback__ = error.__traceback__
    stand_in.__cause__, stand_in.__context__ = error.__cause__, error.__context__
    stand_in.__suppress_context__ = error.__suppress_context__
    return stand_in


def _relink(error: BaseException, link: str, other: BaseException) -> None:
    suppress = error.__suppress_context__  # setting a cause sets it
    setattr(error, link, other)
    error.__suppress_context__ = suppress


def _blot_any(value: object, spellings: list[str]) -> object:
    clean = _blot_copy(value, spellings)
    return value if clean == value else clean  # an enum or a named tuple stays what it is


def _blot_copy(value: object, spellings: list[str]) -> object:
    if isinstance(value, str):
        return _blotted(value, spellings)
    if isinstance(value, bytes):
        for spelling in spellings:
            value = value.replace(spelling.encode("utf-8", errors="replace"), _BLOT.encode())
        return value
    if isinstance(value, tuple):
        return tuple(_blot_any(item, spellings) for item in value)
    if isinstance(value, list):
        return [_blot_any(item, spellings) for item in value]
    if isinstance(value, dict):
        return {key: _blot_any(item, spellings) for key, item in value.items()}
    return value
