"""The driver is its topics and the objects that they share, and nothing else is inherited."""

from __future__ import annotations

from contextlib import closing

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
