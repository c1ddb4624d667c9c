"""The driver is its topics and the objects that they share, and nothing else is inherited."""

from __future__ import annotations

from contextlib import closing

import pytest

from hvdrivers.contract.errors import InvalidRequest
from hvdrivers.libvirt.base import Topic
from hvdrivers.libvirt.config import LibvirtConfig
from hvdrivers.libvirt.driver import LibvirtDriver


def test_the_driver_makes_what_its_topics_share() -> None:
    with closing(LibvirtDriver(LibvirtConfig())) as driver:
        assert vars(driver).keys() >= Topic.__annotations__.keys()


def test_a_topic_inherits_the_contract_and_no_other_topic() -> None:
    own = [
        each for each in LibvirtDriver.__mro__ if each.__module__.startswith("hvdrivers.libvirt.")
    ]
    topics = set(own) - {LibvirtDriver, Topic}
    assert len(topics) > 20
    for topic in topics:
        assert [base for base in topic.__bases__ if base in own] == [Topic]


@pytest.mark.parametrize("url", ["qemu://system", "qemu://", "qemu+ssh://root@lab1"])
def test_a_url_without_a_daemon_names_the_right_one(url: str) -> None:
    """The first has two slashes for three: libvirt takes ``system`` for a host."""
    with pytest.raises(InvalidRequest, match="qemu:///system on this machine"):
        LibvirtConfig.from_url(url)
    assert LibvirtConfig.from_url("qemu://lab1/system").uri == "qemu://lab1/system"
