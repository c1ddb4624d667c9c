"""Other connections for what a stopped machine has: its volumes and NICs (see ``rewiring.py``)."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from uuid import UUID

from hvdrivers.contract import errors
from hvdrivers.contract.storage import Reconnect
from hvdrivers.driverkit.deadline import current_deadline
from hvdrivers.driverkit.undo import changed, undoing
from hvdrivers.libvirt.base import Topic
from hvdrivers.libvirt.devices import volumes_of
from hvdrivers.libvirt.domains import require_off, xml_of
from hvdrivers.libvirt.redefining import redefine
from hvdrivers.libvirt.remote import Remote
from hvdrivers.libvirt.rewiring import Rewiring, wire_of
from hvdrivers.libvirt.secrets import has_secrets
from hvdrivers.libvirt.xml import Element, attribute
from hvdrivers.models.state import InstanceState
from hvdrivers.models.vif import Vif
from hvdrivers.models.volume import LocalVolume, VolumeAttachment


class LibvirtReconnect(Topic, Reconnect):
    """Of a stopped machine."""

    def reconnect(
        self,
        uuid: UUID,
        *,
        volumes: Sequence[VolumeAttachment] = (),
        vifs: Sequence[Vif] = (),
        timeout: float | None = None,
    ) -> None:
        """Budget: 7 calls, 1 for each bridge, 2 for each libvirt network, 3 for each volume of a
        pool, 2 for each secret; 1 for each file or device of the host, 2 if create_volume() has
        made it; 1 for an adopted machine. For NICs that are devices of the host as plug_vif()."""
        del timeout
        deadline = current_deadline()

        def act(domain: Remote, state: InstanceState) -> None:
            del state
            before = xml_of(domain, inactive=True)
            rewiring = self.rewirings.find(uuid, before, volumes, vifs)
            with self.passthrough.nics(vifs, but=uuid), undoing() as undo:
                undo.callback(self._put_back_devices, uuid, before, rewiring)
                redefine(self.hub, uuid, domain, rewiring.on)
                for attachment in volumes:
                    if isinstance(attachment.volume, LocalVolume):
                        # libvirt itself looks only when the machine starts
                        name = attribute(volumes_of(before)[attachment.volume_id], "target", "dev")
                        domain.blockInfo(name, 0)
                    self.deletions.require_kept(attachment.volume, deadline)
            with changed():
                for attachment in volumes:
                    self.secrets.make(uuid, attachment)
                    old = volumes_of(before)[attachment.volume_id]
                    new = rewiring.devices[wire_of(old)]
                    if has_secrets(old) and not has_secrets(new):
                        self.secrets.delete_of(uuid, attachment.volume_id)
            require_off(domain)

        self.domains.change("reconnect", uuid, deadline, act)

    def _put_back_devices(self, uuid: UUID, before: Element, rewiring: Rewiring) -> None:
        # the machine is looked up now: this is how things are undone after a connection was lost
        old = {
            name: device
            for device in before.iterfind("devices/*")
            if (name := wire_of(device)) in rewiring.devices
        }
        new = {attribute(each, "alias", "name"): name for name, each in rewiring.devices.items()}

        def back(xml: Element) -> Element:
            devices = xml.find("devices")
            for index, device in enumerate(devices if devices is not None else ()):
                name = new.get(attribute(device, "alias", "name"))
                if name is not None and devices is not None:
                    devices[index] = deepcopy(old[name])
            return xml

        try:
            domain = self.domains.find(uuid)
        except errors.InstanceNotFound:
            return
        redefine(self.hub, uuid, domain, back)
