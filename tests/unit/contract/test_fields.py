"""Fields that a driver does not honour are refused before it is called."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar
from uuid import uuid4

import pytest

from hvdrivers.conformance.engine.report import BAD
from hvdrivers.conformance.engine.runner import Session, selected
from hvdrivers.contract import errors
from hvdrivers.contract.driver import ComputeDriver
from hvdrivers.contract.fields import FREE, Fields, names_of, only_taken, optional_fields, untaken
from hvdrivers.fake.conformance import FakeTarget
from hvdrivers.fake.driver import FakeDriver
from hvdrivers.fake.world import FakeWorld
from hvdrivers.guard import guarded
from hvdrivers.models.instance import Flavor, InstanceSpec
from hvdrivers.models.vif import Bandwidth, NetworkVif, NicModel, OvsVif, VifQos
from hvdrivers.models.volume import (
    CacheMode,
    DiskBus,
    DiskQos,
    VolumeAttachment,
    parse_connection_info,
)

VOLUME = parse_connection_info(
    {"driver_volume_type": "pool", "serial": "v", "data": {"name": "v", "discard": True}}
)
NIC = OvsVif(id="n", bridge="br-int", mtu=1400, profile_id="gold", model=NicModel.VIRTIO)


class Spare(FakeDriver):
    """Takes only what its capabilities oblige it to."""

    takes: ClassVar[Fields] = {
        DiskQos: frozenset({"total_iops_sec"}),
        VifQos: frozenset({"outbound"}),
    }


@pytest.fixture
def driver() -> Iterator[ComputeDriver]:
    with guarded(Spare(FakeWorld().host("spare"))) as driver:
        yield driver


def _spec(**changes: object) -> InstanceSpec:
    return InstanceSpec.model_validate(
        {
            "name": "n",
            "flavor": Flavor(vcpus=1, memory_mib=64),
            "image": {"source": "host", "name": "cirros"},
            "start": False,
            **changes,
        }
    )


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (VolumeAttachment(volume=VOLUME, cache=CacheMode.NONE), "VolumeAttachment.cache"),
        (VolumeAttachment(volume=VOLUME, qos=DiskQos(read_iops_sec=1)), "DiskQos.read_iops_sec"),
        (NetworkVif(id="n", network="private", mtu=1400), "VifBase.mtu"),
        (NetworkVif(id="n", network="private", portgroup="p"), "NetworkVif.portgroup"),
        (
            NetworkVif(
                id="n",
                network="private",
                qos=VifQos(outbound=Bandwidth(average=1, peak=2)),
            ),
            "Bandwidth.peak",
        ),
        (VifQos(inbound=Bandwidth(average=1)), "VifQos.inbound"),
    ],
)
def test_a_field_that_is_not_taken_is_named(value: object, name: str) -> None:
    assert list(untaken(value, Spare.takes)) == [name]
    assert list(untaken((value,), optional_fields())) == []


def test_what_the_storage_server_says_is_not_the_callers_wish() -> None:
    assert list(untaken(VolumeAttachment(volume=VOLUME), {})) == []


def test_a_default_is_no_wish() -> None:
    assert list(untaken(NetworkVif(id="n", network="private", active=True, mtu=None), {})) == []


def test_the_driver_is_not_called(driver: ComputeDriver) -> None:
    attachment = VolumeAttachment(volume=VOLUME, bus=DiskBus.SCSI)
    with pytest.raises(errors.NotSupported, match=r"VolumeAttachment\.bus") as caught:
        driver.attach_volume(uuid4(), attachment)
    assert "driver.takes" in (caught.value.hint or "")
    with pytest.raises(errors.NotSupported, match=r"VifBase\.mtu"):
        driver.spawn(_spec(vifs=(NIC,)))
    assert driver.list_instances() == []


def test_a_caller_can_do_without(driver: ComputeDriver) -> None:
    spec = only_taken(_spec(vifs=(NIC,)), driver.takes)
    assert spec.vifs == (OvsVif(id="n", bridge="br-int"),)
    driver.spawn(spec)
    assert only_taken(NIC, optional_fields()) == NIC


def test_fields_are_named_as_the_models_have_them() -> None:
    for model, names in {**FREE, **optional_fields()}.items():
        fields = getattr(model, "model_fields", None) or {str(each.value) for each in model}
        assert names <= set(fields), model
    assert "VifBase.mtu" in names_of(optional_fields())


def test_a_driver_that_takes_little_keeps_the_contract() -> None:
    with Session(FakeTarget(Spare), seed=1) as session:
        wanted = [
            each
            for each in selected()
            if each.clause.id.startswith(("FIELD", "NET", "STOR", "STATIC", "LIFE"))
        ]
        results = session.run(wanted)
    assert [each for each in results if each.status in BAD] == []
