"""What the host said of itself, as the contract has it."""

from __future__ import annotations

from hvdrivers.hyperv.session import HostFacts
from hvdrivers.models.host import HostInfo


def host_info(facts: HostFacts) -> HostInfo:
    """What the host said of itself, as the contract has it."""
    return HostInfo(
        driver="hyperv",
        product="Microsoft Hyper-V",
        product_version=facts.version,
        api_version=f"WinRM, PowerShell {facts.engine}",
        architecture="x86_64",
        hostname=facts.computer,
        accelerated=True,
    )
