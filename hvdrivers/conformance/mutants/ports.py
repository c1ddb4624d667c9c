"""Mutants of who has a port."""

from __future__ import annotations

from uuid import UUID

from hvdrivers.conformance.mutants.registry import mutant
from hvdrivers.contract import errors
from hvdrivers.fake.driver import FakeDriver
from hvdrivers.fake.ports import Ports
from hvdrivers.models.vif import Vif, default_mac


@mutant("NET-023")
class FunctionsAreGivenTwice(FakeDriver):
    """Two machines get one virtual function."""

    class ports_type(Ports):
        def check_function(self, uuid: UUID, vif: Vif) -> None:
            return None


@mutant("NET-023")
class TakenFunctionIsBusy(FakeDriver):
    """A virtual function that another machine has is DeviceBusy, as if it were let go of soon."""

    class ports_type(Ports):
        def check_function(self, uuid: UUID, vif: Vif) -> None:
            try:
                super().check_function(uuid, vif)
            except errors.InsufficientResources as error:
                raise errors.DeviceBusy(error.message) from error


@mutant("NET-024")
class PortsAreHeldForEver(FakeDriver):
    """The port of a machine that is powered off is refused to every other."""

    class ports_type(Ports):
        def check_free(self, uuid: UUID, vif: Vif) -> None:
            if any(
                port.owner != uuid and port.vif.id == vif.id for port in self.host.ports.values()
            ):
                raise errors.DeviceBusy("another machine has this port")


@mutant("NET-024")
class PortIsTakenFromWhoIsOff(FakeDriver):
    """plug_vif() takes the port out of the definition of a machine that is powered off."""

    class ports_type(Ports):
        def make(self, uuid: UUID, vif: Vif, token: int) -> None:
            super().make(uuid, vif, token)
            for owner, name in list(self.host.ports):
                if name == vif.id and owner != uuid:
                    self.host.remove_ports(owner, vif_id=name)


@mutant("NET-025")
class StartsOnATakenPort(FakeDriver):
    """power_on() looks at volumes and networks, and not at ports."""

    def _power_on(self, uuid: UUID) -> None:
        mine = self.ports.of(uuid)
        for port in mine:
            port.plugged = False
        try:
            super()._power_on(uuid)
        finally:
            for port in mine:
                port.plugged = True


@mutant("NET-025")
class SpawnNeedsAFreePort(FakeDriver):
    """A machine that is not to be started is refused for a port that it does not use yet."""

    class ports_type(Ports):
        def check(self, uuid: UUID, vif: Vif, *, starts: bool = True) -> None:
            super().check(uuid, vif, starts=True)


@mutant("NET-027")
class NamesOfNicsAreTheHosts(FakeDriver):
    """A NIC is refused because a NIC of another machine has the same name."""

    class ports_type(Ports):
        def check_free(self, uuid: UUID, vif: Vif) -> None:
            super().check_free(uuid, vif)
            for port in self.host.ports.values():
                if port.owner != uuid and port.vif.id == vif.id:
                    raise errors.DeviceBusy("another machine has a NIC of this name")


@mutant("NET-027")
class AddressesComeFromTheNameAlone(FakeDriver):
    """Two NICs of one name have one MAC address, and one network gets both."""

    class ports_type(Ports):
        def check_free(self, uuid: UUID, vif: Vif) -> None:
            return None

        def make(self, uuid: UUID, vif: Vif, token: int) -> None:
            super().make(uuid, vif.model_copy(update={"address": default_mac(vif.id)}), token)
