"""What every model shares: frozen, closed to unknown fields, and honest about secrets."""

from __future__ import annotations

import unicodedata
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, StringConstraints


class Model(BaseModel):
    """An immutable value. Unknown fields are refused, so a typing error is never silent."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,  # a validation error must not print a secret it refused
        use_attribute_docstrings=True,
    )


def _printable(value: str) -> str:
    for char in value:
        # Cc: control characters; Cs: surrogates; Zl/Zp: line and paragraph separators. None of
        # them survives XML 1.0, a PowerShell prompt, or a terminal listing.
        if unicodedata.category(char) in {"Cc", "Cs", "Zl", "Zp"}:
            raise ValueError(f"contains the control character U+{ord(char):04X}")
    return value


def _label(value: str) -> str:
    if len(value.encode()) > 128:
        raise ValueError("is longer than 128 bytes in UTF-8")
    if value != value.strip():
        raise ValueError("begins or ends with white space")
    return _printable(value)


PrintableText = Annotated[str, AfterValidator(_printable)]
"""Text without control characters."""

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
