"""How a host names itself to storage servers."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, AliasChoices, ConfigDict, Field

from hvdrivers.addresses import ip_text
from hvdrivers.models.base import Identifier, Model, PrintableText
from hvdrivers.models.volume._text import AbsolutePath, Iqn, Nqn, Wwns

IpText = Annotated[PrintableText, AfterValidator(ip_text)]


class VolumeConnector(Model):
    """The *connector* that Cinder's ``initialize_connection`` and attachments API want.

    The keys are os-brick's (``initiator/connector.py`` ``get_connector_properties``) and those
    that Nova's VMware driver adds. A driver fills in what its host has. Every Cinder driver wants
    ``host``, most want ``ip``, and one of ``initiator``, ``wwpns`` and ``nqn`` for its protocol.
    """

    model_config = ConfigDict(populate_by_name=True)

    host: PrintableText
    """Name of the host; Cinder driver keep their host entry under it."""
    ip: IpText | None = None
    """IP address on the storage network, no name. None: not known."""
    initiator: Iqn | None = None
    """iSCSI name of the host."""
    wwpns: Wwns = ()
    """Port names of its Fibre Channel adapters."""
    wwnns: Wwns = ()
    """Node names of its Fibre Channel adapters."""
    nqn: Nqn | None = None
    """NVMe name of the host."""
    nvme_hostid: Identifier | None = None
    nvme_native_multipath: bool | None = None
    multipath: bool = False
    """Give all paths."""
    enforce_multipath: bool = False
    platform: PrintableText | None = None
    """``x86_64``."""
    os_type: PrintableText | None = None
    """``linux``, ``win32``."""
    do_local_attach: bool = False
    system_uuid: Annotated[
        Identifier | None,
        Field(
            validation_alias=AliasChoices("system uuid", "system_uuid"),
            serialization_alias="system uuid",
        ),
    ] = None
    """DMI UUID of the host. Cinder's key has a space in it."""
    uuid: Identifier | None = None
    """UUID that os-brick takes of the host's root filesystem."""
    mountpoint: AbsolutePath | None = None
    instance: Identifier | None = None
    """VMware only: managed object reference of the virtual machine (``vm-123``), if it exists."""

    def to_cinder(self) -> dict[str, object]:
        """The dictionary for Cinder; what is not known is left out."""
        dumped = self.model_dump(mode="json", by_alias=True, exclude_none=True)
        always = {"multipath", "do_local_attach"}
        return {
            key: value
            for key, value in dumped.items()
            if key in always or value not in ([], False) or key == "nvme_native_multipath"
        }
