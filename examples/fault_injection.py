"""How to test an orchestrator against lost replies and broken connections, without a hypervisor.

    python examples/fault_injection.py

``ensure_web()`` is the orchestrator: it must end with exactly one running machine with one volume,
whatever happens on the way. The fake cuts the connection at every call that it makes to the host,
before and after the call, and the test looks at the host itself.
"""

from __future__ import annotations

import itertools
import logging
from contextlib import suppress
from uuid import UUID

from hvdrivers import (
    ComputeDriver,
    ConnectionFailed,
    Flavor,
    HostImage,
    HypervisorError,
    InstanceExists,
    InstanceSpec,
    OutcomeUnknown,
)
from hvdrivers.fake import FakeHost, FaultKind, FaultRule
from hvdrivers.models.volume import VolumeAttachment

WEB = UUID("6f0e2c2e-8f0b-4b6e-9d9a-2f3b1c5d7e90")
ATTEMPTS = 3


def ensure_web(driver: ComputeDriver, data: VolumeAttachment) -> None:
    """Have the web server run, with its data. Each step may be repeated safely."""
    spec = InstanceSpec(
        uuid=WEB,  # ours, and known before anything is sent: the same for every attempt
        name="web",
        flavor=Flavor(vcpus=1, memory_mib=512),
        image=HostImage(name="debian"),
    )

    def spawn() -> None:
        with suppress(InstanceExists):  # an earlier attempt had worked
            driver.spawn(spec)

    for step in (
        spawn,
        lambda: driver.power_on(WEB),
        lambda: driver.attach_volume(WEB, data),
    ):
        for attempt in range(ATTEMPTS):
            try:
                step()
                break
            except (ConnectionFailed, OutcomeUnknown):
                if attempt == ATTEMPTS - 1:
                    raise


def try_fault(rule: FaultRule) -> tuple[bool, list[str]]:
    """Run the orchestrator on a new host with one fault.

    Returns:
        Whether the fault struck, and what went wrong.
    """
    host = FakeHost()
    data = _attachment(host.add_volume("data").volume_id)
    problems = []
    with host.connect() as driver, host.faults.add(rule) as fault:
        try:
            ensure_web(driver, data)
            web = driver.get_instance(WEB)
            if web.state != "running" or len(web.volumes) != 1:
                problems.append(f"{web.state}, {len(web.volumes)} volumes")
            driver.destroy(WEB)
            problems += [f"left behind: {item}" for item in host.inventory().of(WEB)]
        except HypervisorError as error:
            problems.append(str(error))
    return fault.hits > 0, problems


def try_all_faults() -> tuple[int, list[str]]:
    """Cut the connection before and after each call of each operation.

    Returns:
        How many faults struck, and what went wrong.
    """
    struck, problems = 0, []
    for operation in ("spawn", "attach_volume"):
        for when in (FaultKind.BEFORE, FaultKind.AFTER):
            for step in itertools.count(1):
                rule = FaultRule(operation=operation, when=when, step=step, times=1)
                hit, found = try_fault(rule)
                if not hit:
                    break  # the operation has no more calls
                struck += 1
                problems += [f"{operation}, cut {when} call {step}: {each}" for each in found]
    return struck, problems


def _attachment(volume_id: str) -> VolumeAttachment:
    return VolumeAttachment.model_validate(
        {
            "volume": {
                "driver_volume_type": "iscsi",
                "serial": volume_id,
                "data": {
                    "target_portal": "192.0.2.1:3260",
                    "target_iqn": "iqn.2026-01.example:data",
                    "target_lun": 1,
                },
            }
        }
    )


def main() -> None:
    """Print what went wrong, or that nothing did."""
    logging.getLogger("hvdrivers").setLevel(logging.CRITICAL)  # the failures are wanted here
    struck, problems = try_all_faults()
    print("\n".join(problems) or f"{struck} faults, each ended with one machine and one volume")


if __name__ == "__main__":
    main()
