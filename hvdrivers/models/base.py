"""What every model shares: frozen, closed to unknown fields, and honest about secrets."""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Iterator
from typing import Annotated, Any, Self, TypeVar, get_args

from pydantic import (
    VERSION,
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    SecretStr,
    StringConstraints,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from hvdrivers.limits import MOST_BYTES, MOST_MIB, TEXT_CHARACTERS
from hvdrivers.models._veil import veiled

# A program imports all models and uses a few of them, so pydantic makes the validator of each when
# it is first used. Before 2.14 it did that without a lock: two threads that used a model for the
# first time could get the validator of its base class. With such a version all are made at import.
_BUILT_AT_FIRST_USE = tuple(int(part) for part in VERSION.split(".")[:2]) >= (2, 14)


class Model(BaseModel):
    """An immutable value. Unknown fields are refused, so a typing error is never silent.

    A ``ValidationError`` of a model, and of any model derived from it, does not hold what was
    refused: neither ``str()`` nor ``errors()`` nor ``json()`` can give a secret away.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,  # a validation error must not print a secret it refused
        defer_build=_BUILT_AT_FIRST_USE,
    )

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        _complete(cls)
        # Around everything, a derived model's own validators included: a model_validator() here
        # would stand inside of theirs, and their errors would keep the input.
        return core_schema.no_info_wrap_validator_function(
            functools.partial(veiled, model=cls), handler(source)
        )

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler, /
    ) -> JsonSchemaValue:
        """The docstrings of the fields are their descriptions."""
        from hvdrivers.models._docstrings import describe  # nothing but a JSON schema needs it

        found = handler(schema)
        describe(cls, handler.resolve_ref_schema(found))
        return found

    @classmethod
    def model_validate_json(cls, json_data: str | bytes | bytearray, **options: Any) -> Self:
        """As pydantic's. Text that is no JSON is refused before any validator of a model runs, so
        its error is veiled here."""
        validated: Self = veiled(
            json_data, functools.partial(super().model_validate_json, **options)
        )
        return validated


_M = TypeVar("_M", bound=Model)


def of_known(model: type[_M], values: dict[str, Any]) -> _M:
    """A model of values of which each is known to be right, one for each of its fields: pydantic's
    ``model_construct()``, in a fifth of the time. A list makes one for each machine of a host."""
    made = model.__new__(model)
    put = object.__setattr__
    put(made, "__dict__", values)
    put(made, "__pydantic_fields_set__", set(values))
    put(made, "__pydantic_extra__", None)
    put(made, "__pydantic_private__", None)
    return made


def _complete(model: type[Model]) -> None:
    """Make the validators of the models that the fields of this one name, before its own.

    That is the order in which they would be made at import. A model is the same then whether its
    validator is made at import or later, its JSON schema included.
    """
    for field in model.model_fields.values():
        for named in _models_in(field.annotation):
            # one that names itself is being made
            if named is not model and not named.__pydantic_complete__:
                named.model_rebuild(raise_errors=False)


def _models_in(annotation: object) -> Iterator[type[Model]]:
    if isinstance(annotation, type) and issubclass(annotation, Model):
        yield annotation
    for each in get_args(annotation):
        yield from _models_in(each)


def _is_noncharacter(code: int) -> bool:
    # The 66 code points that Unicode keeps for no character, ever (section 23.7).
    return code & 0xFFFE == 0xFFFE or 0xFDD0 <= code <= 0xFDEF


def _printable(value: str) -> str:
    if len(value) > TEXT_CHARACTERS:
        raise ValueError(f"is longer than {TEXT_CHARACTERS} characters")
    if value.isascii() and value.isprintable():
        return value  # most are: a list checks the names of all machines
    for char in value:
        # Cc: control characters; Cs: surrogates; Zl/Zp: line and paragraph separators. None of
        # them survives XML 1.0, a PowerShell prompt, or a terminal listing.
        if unicodedata.category(char) in {"Cc", "Cs", "Zl", "Zp"}:
            raise ValueError(f"contains the control character U+{ord(char):04X}")
        # U+FFFE and U+FFFF are no XML: libvirt writes them, and cannot read the definition again.
        if _is_noncharacter(ord(char)):
            raise ValueError(f"contains U+{ord(char):04X}, which is no character")
    return value


def is_text(value: str) -> bool:
    """Whether a text can be handed to another program: no half of a surrogate pair, which has no
    encoding, and no NUL, which ends a text there."""
    if value.isascii():
        return "\0" not in value
    return not any(char == "\0" or "\ud800" <= char <= "\udfff" for char in value)


def _secret_text(value: SecretStr) -> SecretStr:
    if not is_text(value.get_secret_value()):
        raise ValueError("contains a NUL, or half of a surrogate pair")
    return value


TextSecret = Annotated[SecretStr, AfterValidator(_secret_text)]
"""A password, as a text that other programs take."""


def is_printable(value: str) -> bool:
    """Whether a text is a :data:`PrintableText`."""
    try:
        return _printable(value) == value
    except ValueError:
        return False


def _label(value: str) -> str:
    _printable(value)  # first: a surrogate has no encoding
    if len(value) > 32 and len(value.encode()) > 128:  # a character has four bytes at most
        raise ValueError("is longer than 128 bytes in UTF-8")
    if value != value.strip():
        raise ValueError("begins or ends with white space")
    return value


def is_name(value: str) -> bool:
    """Whether a text is a :data:`Name`."""
    try:
        return 0 < len(_label(value)) <= 63
    except ValueError:
        return False


PrintableText = Annotated[str, AfterValidator(_printable)]
"""Text without control characters and without noncharacters of Unicode (U+FFFE, U+FFFF, …), at most
64 Ki characters."""

Name = Annotated[str, StringConstraints(min_length=1, max_length=63), AfterValidator(_label)]
"""A label for people: 1 to 63 characters, at most 128 bytes in UTF-8, no control characters.

Never an identity: two instances may share a name. The bound fits Hyper-V (100 characters), a
libvirt domain name, which becomes a file name, and vSphere (80) unless most of it must be escaped
there (slash, backslash, percent).
"""

Identifier = Annotated[
    str, StringConstraints(min_length=1, max_length=255), AfterValidator(_printable)
]
"""An identifier chosen by another system (a Cinder volume id, a Neutron port id): opaque text."""

PositiveBytes = Annotated[int, Field(ge=1, lt=MOST_BYTES)]
"""A size in bytes that a caller asks for."""

PositiveMib = Annotated[int, Field(ge=1, lt=MOST_MIB)]
"""A size in MiB that a caller asks for."""

PositiveCount = Annotated[int, Field(ge=1, lt=1 << 31)]
"""A number of things that a caller asks for."""
