"""Of two connections for one volume or NIC nobody could say which counts."""

from __future__ import annotations

from uuid import uuid4

import pytest
from pydantic import ValidationError

from hvdrivers.contract import errors
from hvdrivers.fake import FakeHost
from hvdrivers.models.migration import Destination
from hvdrivers.models.vif import NetworkVif
from hvdrivers.models.volume import PoolData, PoolVolume, VolumeAttachment

NICS = tuple(NetworkVif(id="nic", network=name) for name in ("one", "other"))
VOLUMES = tuple(
    VolumeAttachment(volume=PoolVolume(serial="v", data=PoolData(pool="p", name=name)))
    for name in ("one", "other")
)


def test_reconnect() -> None:
    driver = FakeHost().connect()
    with pytest.raises(errors.InvalidRequest, match="the same vif is named twice"):
        driver.reconnect(uuid4(), vifs=NICS)
    with pytest.raises(errors.InvalidRequest, match="the same volume is named twice"):
        driver.reconnect(uuid4(), volumes=VOLUMES)
    with pytest.raises(errors.InstanceNotFound):
        driver.reconnect(uuid4(), vifs=NICS[:1], volumes=VOLUMES[:1])


def test_destination() -> None:
    with pytest.raises(ValidationError, match="the same vif is named twice"):
        Destination(host="there", vifs=NICS)
    with pytest.raises(ValidationError, match="the same volume is named twice"):
        Destination(host="there", volumes=VOLUMES)
    Destination(host="there", vifs=NICS[:1], volumes=VOLUMES[:1])
