"""What a guest's cloud-init (or cloudbase-init) learns at its first boot."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    JsonValue,
    SecretBytes,
    SecretStr,
    StringConstraints,
    field_validator,
    model_validator,
)

from hvdrivers.limits import (
    SEED_CONFIGURATION_BYTES,
    SEED_CONFIGURATION_DEPTH,
    USER_DATA_BYTES,
)
from hvdrivers.models.base import Model, PrintableText

_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
_SSH_KEY = re.compile(r"(ssh|ecdsa|sk)-[A-Za-z0-9@.-]+ [A-Za-z0-9+/]+={0,3}( .*)?")

USER_DATA_LIMIT = USER_DATA_BYTES
"""See :data:`hvdrivers.limits.USER_DATA_BYTES`."""


def _hostname(value: str) -> str:
    labels = value.split(".")
    if len(value) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise ValueError(
            "is no host name (RFC 1123): labels of letters, digits and inner hyphens, at most 63"
            " characters each, joined by dots, at most 253 in all"
        )
    if labels[-1].isdigit():
        # inet_aton() takes "10.1" and even "17" for an IPv4 address.
        raise ValueError("the last label has only digits: it could be taken for an address")
    return value


Hostname = Annotated[str, AfterValidator(_hostname)]
"""A host name or a fully qualified one, ASCII, as in RFC 1123."""


def _ssh_key(value: str) -> str:
    if not _SSH_KEY.fullmatch(value):
        raise ValueError("is no OpenSSH public key line: 'TYPE BASE64 [comment]'")
    return value


def _without_line_break(value: object) -> object:
    # read_text() of a .pub file ends in one, and PrintableText takes none
    return value.strip() if isinstance(value, str) else value


SshKey = Annotated[
    PrintableText,
    StringConstraints(max_length=16384),
    AfterValidator(_ssh_key),
    BeforeValidator(_without_line_break),
]
"""One line of an OpenSSH ``id_*.pub`` file, without ``authorized_keys`` options."""


def _refuse_huge(value: object) -> None:
    """Raise ValueError for what is larger than the limits; looks no farther than they reach."""
    left = SEED_CONFIGURATION_BYTES
    queue: list[tuple[object, int]] = [(value, 0)]
    while queue:
        item, depth = queue.pop()
        if isinstance(item, Mapping):
            left -= 2 * len(item)
            children: list[object] = [*item.keys(), *item.values()] if left >= 0 else []
        elif isinstance(item, list | tuple):
            left -= 2 * len(item)
            children = list(item) if left >= 0 else []
        else:
            # UTF-8 has up to 4 bytes for a character, and an escape 6: this is the least
            left -= len(item) if isinstance(item, str | bytes) else 1
            if isinstance(item, int) and item.bit_length() > 64:
                raise ValueError("has a number of more than 64 bits")
            children = []
        if left < 0:
            raise ValueError(f"is larger than {SEED_CONFIGURATION_BYTES} bytes")
        if children and depth >= SEED_CONFIGURATION_DEPTH:
            raise ValueError(f"has more than {SEED_CONFIGURATION_DEPTH} levels")
        queue += [(child, depth + 1) for child in children]


class CloudInit(Model):
    """First-boot configuration, on a small seed CD (:func:`hvdrivers.cloudinit.build_seed`).

    The CD stays readable for every process in the guest that may open the drive; ``user_data`` and
    ``admin_password`` are hidden from our logs, not from the guest.
    """

    hostname: Hostname | None = None
    """None: made from the instance's name."""
    user_data: Annotated[SecretBytes, Field(max_length=USER_DATA_LIMIT)] | None = None
    """What the guest's cloud-init runs, as it is: ``#cloud-config``, a script, MIME multipart, or
    gzip of one. At most 64 KiB. Text is encoded as UTF-8."""
    ssh_keys: tuple[SshKey, ...] = Field(default=(), max_length=100)
    """Public keys for the image's default user."""
    meta: Mapping[Annotated[PrintableText, Field(min_length=1, max_length=255)], PrintableText] = (
        Field(default_factory=dict)
    )
    """Free keys and values, under ``meta`` in the metadata, as Nova's ``--property``."""
    network_config: Mapping[str, JsonValue] | None = None
    """cloud-init's network configuration version 2 (``{"version": 2, "ethernets": …}``, with or
    without a ``network`` key around it). A config drive cannot carry version 2: there, plain
    ethernets are translated, and the rest needs ``network_data``."""
    network_data: Mapping[str, JsonValue] | None = None
    """OpenStack's own ``network_data.json`` (``links``, ``networks``, ``services``). For a config
    drive only, instead of ``network_config``."""
    admin_password: SecretStr | None = None
    """For the image's default user, or for the administrator on Windows."""
    datasource: Literal["nocloud", "configdrive"] = "nocloud"
    """``nocloud``: volume ``cidata``. ``configdrive``: volume ``config-2``, which cloudbase-init on
    Windows reads too."""

    if TYPE_CHECKING:  # what may be passed, which is wider than what is kept

        def __init__(
            self,
            *,
            hostname: str | None = None,
            user_data: SecretBytes | bytes | str | None = None,
            ssh_keys: Sequence[str] = (),
            meta: Mapping[str, str] = ...,
            network_config: Mapping[str, JsonValue] | None = None,
            network_data: Mapping[str, JsonValue] | None = None,
            admin_password: SecretStr | str | None = None,
            datasource: Literal["nocloud", "configdrive"] = "nocloud",
        ) -> None: ...

    @field_validator("meta", "network_config", "network_data", mode="before")
    @classmethod
    def _bounded(cls, value: object) -> object:
        _refuse_huge(value)
        return value

    @field_validator("network_config")
    @classmethod
    def _version_2(cls, value: Mapping[str, JsonValue] | None) -> Mapping[str, JsonValue] | None:
        if value is None:
            return None
        inner = value["network"] if set(value) == {"network"} else value
        if not isinstance(inner, Mapping) or inner.get("version") != 2:
            raise ValueError("must be network configuration version 2")
        return inner

    @field_validator("admin_password")
    @classmethod
    def _typable(cls, value: SecretStr | None) -> SecretStr | None:
        # The message must not repeat what it refuses.
        if value is not None and not (
            0 < len(value.get_secret_value()) <= 256 and value.get_secret_value().isprintable()
        ):
            raise ValueError("must have 1 to 256 printable characters")
        return value

    @model_validator(mode="after")
    def _one_network(self) -> CloudInit:
        if self.network_data is not None and self.datasource != "configdrive":
            raise ValueError("network_data is for datasource='configdrive': use network_config")
        if self.network_data is not None and self.network_config is not None:
            raise ValueError("network_config and network_data contradict each other")
        return self

    def __repr_args__(self) -> Any:
        for name, value in super().__repr_args__():
            # Wi-Fi and 802.1X passwords live in a network configuration.
            secret = name in {"network_config", "network_data"} and value is not None
            yield name, ("{…}" if secret else value)
