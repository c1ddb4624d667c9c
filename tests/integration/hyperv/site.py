"""A simulated Hyper-V host with the driver on it, and an instance to spawn there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from uuid import uuid4

from hvdrivers.contract.driver import ComputeDriver
from hvdrivers.guard import guarded
from hvdrivers.hyperv.config import HypervConfig
from hvdrivers.hyperv.driver import HypervDriver
from hvdrivers.hyperv.simulator.host import SimulatedHost
from hvdrivers.hyperv.simulator.state.host import Switch
from hvdrivers.hyperv.simulator.wsman import WsmanServer
from hvdrivers.models.image import FileImage
from hvdrivers.models.instance import Flavor, InstanceSpec
from hvdrivers.models.vif import HypervVif
from tests.peers.waiting import wait_until

SWITCH = "lan [1] *"


class Site:
    """A simulated host, its service, and a driver.

    Args:
        first: a site that this one can exchange machines with.
    """

    def __init__(
        self, name: str = "HV1", first: Site | None = None, *, language: str = "en"
    ) -> None:
        world = first.host.world if first else None
        self.host = SimulatedHost(name, world=world, language=language)
        self.host.start()
        if first is not None:
            self.host.meet(first.host)
            for state in (self.host.state, first.host.state):
                state.settings.migration = state.delegation = state.guardian_trust = True
        switch = Switch(SWITCH)
        self.host.state.switches[switch.id] = switch
        self.service = WsmanServer(self.host, users={"operator": "secret"}, machine=name)
        self.config = HypervConfig(
            host="127.0.0.1",
            port=self.service.port,
            tls=False,
            username="operator",
            password="secret",
            folder="C:\\hv",
            pools={"second": "C:\\hv-second"},
        )
        self.inner = HypervDriver.connect(self.config)
        self.driver: ComputeDriver = guarded(self.inner)

    def left(self) -> list[str]:
        """Machines, and files below the driver's folder without the image cache."""
        folder = self.host.drive / "hv"
        files = [
            str(each.relative_to(folder))
            for each in folder.rglob("*")
            if each.is_file() and each.relative_to(folder).parts[0] != "images"
        ]
        files += [str(each) for each in (self.host.drive / "hv-second").rglob("*")]
        return files + [each.name for each in self.host.state.machines.values()]

    def close(self) -> None:
        self.driver.close()
        self.service.close()
        self.host.close()


def spec(image: FileImage | None, **changes: object) -> InstanceSpec:
    fields: dict[str, object] = {
        "name": "web-1",
        "flavor": Flavor(vcpus=1, memory_mib=64),
        "image": image,
        "vifs": (HypervVif(id=f"nic-{uuid4().hex[:6]}", switch=SWITCH),),
    }
    return InstanceSpec.model_validate(fields | changes)


@contextmanager
def held(site: Site, cmdlet: str) -> Iterator[Callable[[], AbstractContextManager[None]]]:
    """The next call of a cmdlet waits, before its work, until the block that ``release()`` stands
    around has ended."""
    rule = site.host.state.faults.slow(cmdlet, before=3600.0, calls=1)

    def go_on() -> None:
        rule.over = True
        site.host.world.notify()

    @contextmanager
    def release() -> Iterator[None]:
        try:
            wait_until(lambda: rule.seen > 0, timeout=120, what=f"{cmdlet} is called")
            yield
        finally:
            go_on()

    try:
        yield release
    finally:
        go_on()
        site.host.state.faults.clear()
