"""PCI addresses, as sysfs, libvirt, Neutron (``pci_slot``), os-vif (``dev_address``) write them."""

from __future__ import annotations

import re
from typing import Self

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

# Domains beyond 16 bits are real: Intel VMD and Hyper-V pass-through number them from 0x10000.
_FORM = re.compile(
    r"(?:(?P<domain>[0-9a-f]{1,8}):)?(?P<bus>[0-9a-f]{1,2}):(?P<slot>[0-9a-f]{1,2})\.(?P<function>[0-7])",
    re.IGNORECASE | re.ASCII,
)


class PciAddress(str):
    """``0000:03:10.1``: domain, bus, slot, function, in lower-case hexadecimal.

    It is a string in its one canonical form, so two spellings of an address compare equal and it
    can be a key. ``PciAddress("3:10.1")`` and ``PciAddress("0000:03:10.1")`` are the same.

    Raises:
        ValueError: not a PCI address.
    """

    __slots__ = ()

    def __new__(cls, value: str) -> Self:
        if isinstance(value, cls):
            return value
        match = _FORM.fullmatch(value)
        if match is None:
            raise ValueError("is not a PCI address like 0000:03:10.1")
        domain, bus, slot, function = (int(part or "0", 16) for part in match.groups())
        if slot > 0x1F:
            raise ValueError("is not a PCI address: the slot is at most 1f")
        return super().__new__(cls, f"{domain:04x}:{bus:02x}:{slot:02x}.{function:x}")

    @classmethod
    def of(cls, domain: int, bus: int, slot: int, function: int) -> Self:
        """Build one from its four numbers (libvirt and pyVmomi give those)."""
        return cls(f"{domain:04x}:{bus:02x}:{slot:02x}.{function:x}")

    @property
    def _parts(self) -> tuple[int, int, int, int]:
        domain, bus, rest = self.split(":")
        slot, function = rest.split(".")
        return int(domain, 16), int(bus, 16), int(slot, 16), int(function, 16)

    @property
    def domain(self) -> int:
        """The PCI domain (segment)."""
        return self._parts[0]

    @property
    def bus(self) -> int:
        """The bus, 0 to 255."""
        return self._parts[1]

    @property
    def slot(self) -> int:
        """The slot (device), 0 to 31."""
        return self._parts[2]

    @property
    def function(self) -> int:
        """The function, 0 to 7."""
        return self._parts[3]

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: object, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_after_validator_function(
            cls, core_schema.str_schema(max_length=32)
        )
