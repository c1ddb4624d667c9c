"""Compatibility reports: what Compare-VM writes of an exported machine, or of one to be moved."""

from __future__ import annotations

from uuid import UUID

from hvdrivers.hyperv.simulator.cmdlets import views
from hvdrivers.hyperv.simulator.cmdlets.call import Call


def write_report(
    call: Call, identity: UUID, name: str, reasons: list[tuple[str, int, str, str]]
) -> None:
    """Write a compatibility report; an empty list of incompatibilities means that it would work.

    Each reason is a text, the id of its message (0 where Microsoft documents none), the class of
    the part of the machine that it is about, and that part's file, or a NIC's name.
    """
    call.write(
        views.thing(
            "VMCompatibilityReport",
            {
                "VM": None,
                "VMId": identity,
                "VMName": name,
                "OperationType": "ImportVirtualMachine"
                if call.has("Path")
                else "MoveVirtualMachine",
                "Destination": call.text("DestinationHost", call.host.name),
                "Path": call.text("Path"),
                "Incompatibilities": [
                    views.thing(
                        "VMCompatibilityReportError",
                        {
                            "Message": text,
                            "MessageId": number,
                            "Source": views.thing(
                                part,
                                {
                                    "VMId": identity,
                                    "VMName": name,
                                    "Name" if part == "VMNetworkAdapter" else "Path": where,
                                },
                            ),
                        },
                    )
                    for text, number, part, where in reasons
                ],
                "ReportId": str(identity),
            },
        )
    )
