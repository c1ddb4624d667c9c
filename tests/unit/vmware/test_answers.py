"""The driver's reader of answers against pyVmomi's own, on the same bytes."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from pyVmomi import SoapAdapter, VmomiSupport, vim, vmodl

from hvdrivers.vmware.answers import Answer

VERSION = "vim.version.v8_0_3_0"
_PC = vmodl.query.PropertyCollector
STUB = SoapAdapter.SoapStubAdapter(host="nowhere.invalid", version=VERSION)


def machine(name: str) -> Any:
    return vim.VirtualMachine(name, STUB)


def config() -> Any:
    """A machine's hardware, with what such a tree has of every kind."""
    backing = vim.vm.device.VirtualDisk.FlatVer2BackingInfo(
        fileName="[a] b/<c> & d.vmdk",
        diskMode="persistent",
        thinProvisioned=True,
        datastore=vim.Datastore("datastore-1", STUB),
    )
    disk = vim.vm.device.VirtualDisk(
        key=2000, controllerKey=1000, unitNumber=0, capacityInKB=4096, backing=backing
    )
    controller = vim.vm.device.ParaVirtualSCSIController(
        key=1000, busNumber=0, device=[2000, 2001], sharedBus="noSharing"
    )
    change = vim.vm.device.VirtualDeviceSpec
    return vim.vm.ConfigSpec(
        name="ä\n<>",
        createDate=datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=UTC),
        numCPUs=2,
        deviceChange=[change(device=controller, operation="add"), change(device=disk)],
        extraConfig=[
            vim.option.OptionValue(key="a", value="text"),
            vim.option.OptionValue(key="b", value=7),
            vim.option.OptionValue(key="c", value=True),
            vim.option.OptionValue(key="d", value=VmomiSupport.long(1 << 40)),
        ],
    )


def array(kind: str, values: Any) -> Any:
    return VmomiSupport.GetVmodlType(f"{kind}[]")(values)


VALUES = {
    "object": config,
    "devices": lambda: array("vim.vm.device.VirtualDeviceSpec", config().deviceChange),
    "options": lambda: array("vim.option.OptionValue", config().extraConfig),
    "machines": lambda: VmomiSupport.ManagedObject.Array([machine("vm-1"), machine("vm-2")]),
    "machine": lambda: machine("vm-1"),
    "text": lambda: "a & b",
    "empty": lambda: "",
    "flag": lambda: False,
    "number": lambda: -3,
    "fraction": lambda: VmomiSupport.double(1.5),
    "time": lambda: datetime(2026, 1, 2, tzinfo=UTC),
    "bytes": lambda: VmomiSupport.binary(b"\0\1"),
    "choice": lambda: vim.VirtualMachine.PowerState("poweredOn"),
    "fault": lambda: vim.fault.InvalidPowerState(
        msg="no", requestedState="poweredOn", existingState="suspended"
    ),
    "fault in a fault": lambda: vim.fault.GenericVmConfigFault(
        msg="why", reason="r", faultCause=vim.fault.NoPermission(privilegeId="x")
    ),
    "strings": lambda: array("string", ["a", "b"]),
    "nothing of many": lambda: array("string", []),
}


def answer(value: Any) -> bytes:
    """What a server says of one property of a machine."""
    result = _PC.RetrieveResult(
        objects=[
            _PC.ObjectContent(
                obj=machine("vm-1"),
                propSet=[vmodl.DynamicProperty(name="p", val=value)],
                missingSet=[
                    _PC.MissingProperty(path="q", fault=vim.fault.NoPermission(privilegeId="p"))
                ],
            )
        ]
    )
    info = VmomiSupport.Object(
        name="returnval", type=_PC.RetrieveResult, version=VERSION, flags=VmomiSupport.F_OPTIONAL
    )
    namespaces = {**SoapAdapter.SOAP_NSMAP, "urn:vim25": ""}
    text = SoapAdapter.SerializeToStr(result, info, VERSION, namespaces)
    return (
        f"{SoapAdapter.XML_HEADER}\n{SoapAdapter.SOAP_ENVELOPE_START}{SoapAdapter.SOAP_BODY_START}"
        f'<RetrievePropertiesExResponse xmlns="urn:vim25">{text}</RetrievePropertiesExResponse>'
        f"{SoapAdapter.SOAP_BODY_END}{SoapAdapter.SOAP_ENVELOPE_END}"
    ).encode()


def both(body: bytes) -> list[str]:
    """What pyVmomi reads and what the driver reads, twice: the second time it has learned."""
    readers = (SoapAdapter.SoapResponseDeserializer, Answer, Answer)
    return [repr(each(STUB).Deserialize(body, _PC.RetrieveResult)) for each in readers]


@pytest.mark.parametrize("name", VALUES)
def test_reads_what_pyvmomi_reads(name: str) -> None:
    first, *others = both(answer(VALUES[name]()))
    assert others == [first, first]


def test_objects_share_nothing() -> None:
    body = answer(config())
    for _ in range(2):
        one, two = (Answer(STUB).Deserialize(body, _PC.RetrieveResult) for _ in range(2))
        one.objects[0].propSet[0].val.deviceChange.clear()
        one.objects[0].missingSet.clear()
        assert len(two.objects[0].propSet[0].val.deviceChange) == 2
        assert len(two.objects[0].missingSet) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        (b">true<", b">perhaps<"),
        (b">poweredOn<", b">nowhere<"),
        (b"-3", b"three"),
        (b"<path>q</path>", b"<way>q</way>"),
        (b'xsi:type="xsd:int"', b'xsi:type="Nothing"'),
    ],
)
def test_what_pyvmomi_refuses_is_refused(wrong: tuple[bytes, bytes]) -> None:
    for make in VALUES.values():
        body = answer(make())
        if wrong[0] not in body:
            continue
        both(body)  # it has learned
        kinds = []
        for reader in (SoapAdapter.SoapResponseDeserializer, Answer):
            with pytest.raises(Exception) as raised:  # noqa: PT011 - whatever pyVmomi raises
                reader(STUB).Deserialize(body.replace(*wrong), _PC.RetrieveResult)
            kinds.append(type(raised.value))
        assert kinds[0] is kinds[1]
        return
    pytest.fail(f"no value has {wrong[0]!r}")
