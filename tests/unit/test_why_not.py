"""Every capability that a driver lacks has a reason that a user can act on."""

import pytest

from hvdrivers.contract.capabilities import Capability, declared
from hvdrivers.contract.instead import INSTEAD
from hvdrivers.guard import guarded
from hvdrivers.plugins import load_driver


def test_each_capability_says_what_to_do_without_it() -> None:
    assert set(INSTEAD) == set(Capability)
    for capability, text in INSTEAD.items():
        assert len(text.split()) > 2, capability
        assert not text.endswith("."), capability


@pytest.mark.parametrize("name", ["libvirt", "vmware", "hyperv"])
def test_each_reason_of_a_driver_is_used_and_says_more_than_no(name: str) -> None:
    cls = load_driver(name)
    lacking = dict(cls.__dict__["lacking"])
    assert lacking
    assert not set(lacking) & declared(cls)  # a reason why it cannot do what it does

    class Unconnected(cls):  # type: ignore[misc, valid-type]
        host_label = "nowhere"

        def __init__(self) -> None:
            """The class is what is asked here."""

        def narrowed(self) -> dict[Capability, str]:
            return {}

        def close(self, *, timeout: float | None = None) -> None:
            """There is nothing to close."""

    driver = guarded(Unconnected())
    try:
        for capability in set(Capability) - declared(cls):
            reason = driver.why_not(capability)
            assert reason is not None
            assert reason.startswith(f"no {capability}: ")
            assert lacking.get(capability, f"the {name} driver does not offer it") in reason
            assert reason.endswith(f"; instead: {INSTEAD[capability]}")
    finally:
        driver.close()


def test_the_hyperv_driver_has_a_reason_for_all_that_it_lacks() -> None:
    cls = load_driver("hyperv")
    assert set(Capability) - declared(cls) == set(cls.__dict__["lacking"])
