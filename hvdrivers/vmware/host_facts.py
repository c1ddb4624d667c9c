"""The server as it describes itself: product and versions."""

from __future__ import annotations

from hvdrivers.models.host import HostInfo
from hvdrivers.vmware.place import Places
from hvdrivers.vmware.session import Session


def host_info(session: Session, places: Places) -> HostInfo:
    """What the server is. No call."""
    about = session.content.about
    return HostInfo(
        driver="vmware",
        product=about.name,
        product_version=about.version,
        api_version=about.apiVersion,
        architecture="x86_64",
        hostname=places.get().compute_name,
        accelerated=True,
    )
