"""A network of forward mode hostdev: libvirt defines none with functions that are made up."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from hvdrivers.contract import errors
from hvdrivers.libvirt.network_checks import Networks
from hvdrivers.models.vif import Bandwidth, NetworkVif, NicModel, VifQos

WISHES: list[dict[str, Any]] = [
    {"model": NicModel.E1000E},
    {"queues": 2},
    {"mtu": 1400},
    {"qos": VifQos(outbound=Bandwidth(average=80))},
    {"active": False},
]


def networks(mode: str, asked: list[str]) -> Networks:
    """What looks at networks, on a host that has one which forwards so."""

    def description(_: int) -> str:
        asked.append("XMLDesc")
        return f"<network><name>net</name><forward mode='{mode}'/></network>"

    network = SimpleNamespace(isActive=lambda: True, XMLDesc=description)
    remote = SimpleNamespace(networkLookupByName=lambda _: network)
    return Networks(cast(Any, SimpleNamespace(remote=remote)))


@pytest.mark.parametrize("wish", WISHES, ids=[next(iter(each)) for each in WISHES])
def test_what_libvirt_passes_over_there_is_refused(wish: dict[str, Any]) -> None:
    vif = NetworkVif(id="n", network="net", **wish)
    with pytest.raises(errors.NotSupported, match="net") as refused:
        networks("hostdev", []).require([vif])
    assert refused.value.hint
    networks("nat", []).require([vif])


def test_a_plain_nic_costs_no_look() -> None:
    asked: list[str] = []
    networks("hostdev", asked).require([NetworkVif(id="n", network="net", vlan=7)])
    assert asked == []
