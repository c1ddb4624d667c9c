"""Keep secrets out of what people read: errors, their causes, and log lines.

Vendor libraries put what they were given into their messages. The guard knows every secret of a
call, for models hold them as SecretStr or SecretBytes, and blots them out of whatever comes back.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from pydantic import BaseModel, SecretBytes, SecretStr

_BLOT = "**********"
_SHORTEST = 4  # blotting out "a" would make a message unreadable and give the secret's length away


def secrets_in(value: object) -> Iterator[str]:
    """Every secret text inside a value, however deep."""
    if isinstance(value, SecretStr):
        yield value.get_secret_value()
    elif isinstance(value, SecretBytes):
        yield value.get_secret_value().decode("utf-8", errors="replace")
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from secrets_in(getattr(value, name))
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from secrets_in(item)
    elif isinstance(value, Iterable) and not isinstance(value, str | bytes):
        for item in value:
            yield from secrets_in(item)


def blot(text: str, secrets: Iterable[str]) -> str:
    """``text`` without the secrets."""
    for secret in secrets:
        if len(secret) >= _SHORTEST:
            text = text.replace(secret, _BLOT)
    return text


def blot_error(error: BaseException, secrets: Iterable[str]) -> None:
    """Blot the secrets out of an exception, its attributes, its notes, its causes and contexts."""
    hidden = [secret for secret in secrets if len(secret) >= _SHORTEST]
    seen: set[int] = set()
    queue: list[BaseException | None] = [error] if hidden else []
    while queue:
        current = queue.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        current.args = tuple(_blot_any(arg, hidden) for arg in current.args)
        for name, value in list(vars(current).items()):
            setattr(current, name, _blot_any(value, hidden))
        queue += [current.__cause__, current.__context__]


def _blot_any(value: object, secrets: list[str]) -> object:
    if isinstance(value, str):
        return blot(value, secrets)
    if isinstance(value, bytes):
        return blot(value.decode("utf-8", errors="replace"), secrets).encode()
    if isinstance(value, tuple | list):
        return type(value)(_blot_any(item, secrets) for item in value)
    return value
