"""Validation errors without what they refuse.

pydantic keeps the refused input in each error: ``errors()`` and ``json()`` hand it out, even where
``str()`` does not show it. An input may be a secret, a mapping that holds one, or a secret in the
wrong field, so the error of a model never keeps it.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterator, Mapping
from typing import Any, get_args

from pydantic import BaseModel, SecretBytes, SecretStr, ValidationError, WrapValidator
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError
from pydantic_core.core_schema import ErrorType

_KNOWN: frozenset[str] = frozenset(get_args(ErrorType))

_RAISED = frozenset({"value_error", "assertion_error"})
"""Their context is what a validator raised, which may hold the input: a UnicodeEncodeError does."""

VEIL = "**********"
_SHORTEST = 4  # as in hvdrivers.redact: less would make a message unreadable


def veiled(value: Any, validate: Any, model: type[BaseModel] | None = None) -> Any:
    """What ``validate(value)`` gives; its ValidationError has no input in it.

    Args:
        model: the values of its secret fields are blotted out of messages too: a validator of the
            model's author may quote them. A secret of ten asterisks is refused.
    """
    try:
        made = validate(value)
        if model is not None:
            _refuse_masked(made, model)
        return made
    except ValidationError as error:
        safe = without_input(error, set(_secrets(value, model)) if model is not None else ())
    # Here, not above: an error raised there would carry the first one as its context.
    raise safe


def _refuse_masked(made: Any, model: type[BaseModel]) -> None:
    """Refuse what ``model_dump_json()`` writes in place of a secret. It would be used as one."""
    for name in _secret_fields(model):
        if VEIL in _texts(getattr(made, name, None)):
            raise PydanticCustomError(
                "masked",
                "{field} is masked, as model_dump_json() writes it: give the secret itself",
                {"field": name},
            )


@functools.cache
def _secret_fields(model: type[BaseModel]) -> tuple[str, ...]:
    fields = model.model_fields.items()
    return tuple(name for name, field in fields if holds_secret(field.annotation))


VEILED = WrapValidator(lambda value, validate: veiled(value, validate))  # noqa: PLW0108 - two arguments
"""For a union of models. pydantic refuses an input that matches none of them before any model's own
validator runs, so the union itself must remove the input from the error."""


def without_input(
    error: ValidationError, secrets: Collection[str] = (), *, title: str | None = None
) -> ValidationError:
    """The same error, without the input that was refused.

    Args:
        secrets: texts to blot out of the messages.
        title: the name at the head of the error, instead of the model's.
    """
    found = error.errors(include_url=False, include_input=False)
    lines = [_line(line, _blotted(line["msg"], secrets)) for line in found]
    return ValidationError.from_exception_data(title or error.title, lines, hide_input=True)


def _line(line: ErrorDetails, message: str) -> InitErrorDetails:
    kind: str | PydanticCustomError = line["type"]
    if message != line["msg"] or line["type"] not in _KNOWN - _RAISED:
        # Without a context pydantic fills nothing in, so braces in the message mean nothing.
        kind = PydanticCustomError(line["type"], message)
    made = InitErrorDetails(type=kind, loc=line["loc"], input=VEIL)
    if isinstance(kind, str) and "ctx" in line:
        made["ctx"] = line["ctx"]
    return made


def _blotted(message: str, secrets: Collection[str]) -> str:
    for secret in secrets:
        message = message.replace(secret, VEIL)
    return message


def _secrets(value: Any, model: type[BaseModel]) -> Iterator[str]:
    if not isinstance(value, Mapping):
        return
    for name in _secret_fields(model):
        for key in {name, model.model_fields[name].alias or name}:
            yield from _texts(value.get(key))


def _texts(value: Any, levels: int = 32) -> Iterator[str]:
    if not levels:  # what holds itself has no end
        return
    if isinstance(value, SecretStr | SecretBytes):
        value = value.get_secret_value()
    if isinstance(value, bytes):
        value = value.decode("utf-8", errors="replace")
    if isinstance(value, Mapping):
        for item in value.values():
            yield from _texts(item, levels - 1)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item, levels - 1)
    elif isinstance(value, str) and len(value) >= _SHORTEST:
        yield value


def holds_secret(annotation: object) -> bool:
    """Whether a field with this annotation is, or may be, or contains a secret."""
    return annotation in (SecretStr, SecretBytes) or any(map(holds_secret, get_args(annotation)))
