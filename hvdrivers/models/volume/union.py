"""``Volume``: any kind of volume, told apart by ``driver_volume_type``."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping
from typing import Annotated

from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from hvdrivers.models._veil import VEILED, without_input
from hvdrivers.models.volume._base import prepare
from hvdrivers.models.volume.fc import FibreChannelVolume
from hvdrivers.models.volume.host import FcdVolume, LocalVolume, PoolVolume, VmdkVolume
from hvdrivers.models.volume.iscsi import IscsiVolume
from hvdrivers.models.volume.network import NfsVolume, RbdVolume, SmbfsVolume
from hvdrivers.models.volume.nvmeof import NvmeofVolume

Volume = Annotated[
    Annotated[
        IscsiVolume
        | RbdVolume
        | NfsVolume
        | SmbfsVolume
        | FibreChannelVolume
        | NvmeofVolume
        | LocalVolume
        | PoolVolume
        | VmdkVolume
        | FcdVolume,
        Field(discriminator="driver_volume_type"),
    ],
    # Outside of the choice, so that an unknown type does not print the credentials beside it.
    BeforeValidator(prepare),
    VEILED,
]
"""A volume. As a field it accepts a model, or Cinder's ``connection_info`` as it comes."""

VOLUME_TYPES = (
    IscsiVolume,
    RbdVolume,
    NfsVolume,
    SmbfsVolume,
    FibreChannelVolume,
    NvmeofVolume,
    LocalVolume,
    PoolVolume,
    VmdkVolume,
    FcdVolume,
)
"""The classes behind ``Volume``, for ``isinstance``."""


@functools.cache
def _adapter() -> TypeAdapter[Volume]:
    # made with the first volume that is read: it builds the validators of all kinds
    return TypeAdapter(Volume, config=ConfigDict(hide_input_in_errors=True))


def parse_connection_info(
    connection_info: Mapping[str, object], *, ignore: Collection[str] = ()
) -> Volume:
    """Read Cinder's ``connection_info``, nested or flat (attachments API).

    Args:
        connection_info: the dictionary, as Cinder gives it.
        ignore: more keys to drop, from ``data`` and from the top: keys of your own Cinder driver,
            which this library does not know.

    Raises:
        pydantic.ValidationError: not a volume of a kind we know, a value of a wrong shape, an
            unknown key, or no id of the volume.
    """
    wanted = dict(connection_info)
    if ignore:
        data = wanted.get("data")
        if isinstance(data, Mapping):
            wanted["data"] = {k: v for k, v in data.items() if k not in ignore}
        wanted = {k: v for k, v in wanted.items() if k not in ignore}
    try:
        return _adapter().validate_python(wanted)
    except ValidationError as error:
        # Under a title that a reader understands; pydantic's own spells out the whole union.
        raise without_input(error, title="connection_info") from None
