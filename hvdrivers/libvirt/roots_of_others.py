"""The root disk of an adopted machine, which rebuild() replaces. Only functions of their
arguments, no remote call."""

from __future__ import annotations

from copy import deepcopy

from hvdrivers.contract import errors
from hvdrivers.libvirt.adopted import Adoption
from hvdrivers.libvirt.covered_disks import COVERED_HINT, covered
from hvdrivers.libvirt.devices import source_of
from hvdrivers.libvirt.naming import ROOT
from hvdrivers.libvirt.xml import Element, attribute


def refuse_odd_root(root: Element, adoption: Adoption) -> None:
    """Raise for a root disk that a new one cannot take the place of.

    Raises:
        InvalidRequest: others have put another file in its place, or over it.
        NotSupported: it is encrypted, and the new one would not be.
    """
    target = attribute(root, "target", "dev")
    if not adoption.has(ROOT, source_of(root)):
        raise errors.InvalidRequest(
            covered(target),
            hint=COVERED_HINT,
        )
    if next(root.iter("encryption"), None) is not None:
        raise errors.NotSupported(
            f"the disk {target} is encrypted, and the new one would not be",
            hint="spawn() a machine from the image, with an encrypted volume",
        )


def root_at(root: Element, path: str) -> Element:
    """A root disk, on its bus and in its slot, with a qcow2 file of the driver's."""
    new = deepcopy(root)
    new.set("type", "file")
    for tag in ("source", "backingStore", "mirror"):
        for each in new.findall(tag):
            if tag == "source":
                each.clear()
                each.set("file", path)
            else:
                new.remove(each)
    driver = new.find("driver")
    if driver is not None:
        driver.set("type", "qcow2")
    return new
