"""A look at a machine leaves out of its text what says nothing of the instance, and no more."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest

from hvdrivers.contract import errors
from hvdrivers.exact import acceptor
from hvdrivers.libvirt import shown as room
from hvdrivers.libvirt.metadata import Record
from hvdrivers.libvirt.naming import domain_name
from hvdrivers.libvirt.shown import shown, shown_in
from hvdrivers.libvirt.xml import parse, text
from hvdrivers.models.instance import Firmware, Flavor, InstanceInfo
from hvdrivers.models.state import InstanceState

UUID_ = UUID("8701cb70-6d37-4c86-a36c-f7fb666f94c4")
NAME = domain_name("ours", UUID_)
RECORD = Record(name="ours", flavor=Flavor(vcpus=1, memory_mib=64), firmware=Firmware.BIOS)
DOCUMENT = """<domain type='qemu' id='1'>
  <name>{name}</name>
  <uuid>{uuid}</uuid>
  <metadata>
    {record}
{more}  </metadata>
  <memory unit='KiB'>131072</memory>
  <vcpu placement='static'>2</vcpu>
  <os>
    <type arch='x86_64' machine='pc-q35-7.2'>hvm</type>
  </os>
  <cpu mode='custom' match='exact' check='full'>
    <model fallback='forbid'>qemu64</model>
    <feature policy='require' name='hypervisor'/>
  </cpu>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <controller type='pci' index='0' model='pcie-root'/>
    <disk type='file' device='disk'>
      <source file='/pool/v' index='1'/>
      <target dev='vdb' bus='virtio'/>
      <alias name='ua-volume-v'/>
      <address type='pci' domain='0x0000' bus='0x04' slot='0x00' function='0x0'/>
    </disk>
    <controller type='pci' index='1' model='pcie-root-port'>
      <model name='pcie-root-port'/>
      <target chassis='1' port='0x10'/>
    </controller>
    <interface type='bridge'>
      <mac address='52:54:00:00:02:01'/>
      <source bridge='br0'/>
      <target dev='tap0'/>
      <model type='virtio'/>
      <alias name='ua-vif-bridge-n'/>
    </interface>
    <video>
      <model type='vga' vram='16384' heads='1' primary='yes'/>
    </video>
    <console type='pty'/>
    <disk type='file' device='disk'>
      <source file='/pool/w'/>
      <target dev='vdc' bus='virtio'/>
      <alias name='ua-volume-w'/>
    </disk>
  </devices>
  <seclabel type='dynamic' model='dac' relabel='yes'>
    <label>+0:+0</label>
  </seclabel>
</domain>
"""
OTHERS = {
    "nothing": "",
    # as another program's metadata may look, which libvirt keeps as they are
    "devices": """    <x:a xmlns:x="urn:x"><devices>
  <devices>
    <controller a="b">
      <c/>
    </controller>
  </devices>
    </devices></x:a>
""",
    "half a comment": """    <x:a xmlns:x="urn:x"><!--
    <controller a="b">
      --><controller>
    </controller></x:a>
    <x:b xmlns:x="urn:x"><!-- --></x:b>
""",
    "the end of the metadata": """    <x:a xmlns:x="urn:x"><!--
  </metadata>
  <os>
    --><os>
  </os></x:a>
    <x:b xmlns:x="urn:x"><!-- --></x:b>
""",
    "text": """    <x:a xmlns:x="urn:x"><![CDATA[
    <console a="b">
      c
    ]]></x:a>
""",
}


def document(more: str = "") -> str:
    record = text(RECORD.qualified())
    return DOCUMENT.format(name=NAME, uuid=UUID_, record=record, more=more)


def looked(answer: str) -> InstanceInfo:
    domain: Any = SimpleNamespace(XMLDesc=lambda _flags: answer, name=lambda: NAME)
    return shown(UUID_, domain, InstanceState.RUNNING)


@pytest.mark.parametrize("more", OTHERS)
def test_a_look_says_what_the_whole_text_says(more: str) -> None:
    answer = document(OTHERS[more])
    domain: Any = SimpleNamespace(name=lambda: NAME)
    whole = shown_in(parse(answer), UUID_, domain, InstanceState.RUNNING)
    assert looked(answer) == whole
    assert [each.volume_id for each in whole.volumes] == ["v", "w"]
    assert [each.id for each in whole.vifs] == ["n"]
    assert (whole.flavor.vcpus, whole.flavor.memory_mib) == (2, 128)
    assert whole.image == RECORD.image


def test_the_parser_gets_nothing_of_the_board(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[str] = []

    def noting(document: str) -> Any:
        parsed.append(document)
        return parse(document)

    monkeypatch.setattr(room, "parse", noting)
    looked(document("    <!-- a text of its own -->\n"))
    (found,) = parsed
    assert "pcie-root-port" not in found
    assert "<video" not in found
    assert "<os>" not in found
    assert "qemu64" not in found
    assert "<seclabel" not in found
    assert found.count("<disk ") == 2


def test_a_text_of_another_form_is_read_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[str] = []

    def noting(document: str) -> Any:
        parsed.append(document)
        return parse(document)

    monkeypatch.setattr(room, "parse", noting)
    flat = document("    <!-- another one -->\n").replace("\n  </metadata>", "\n </metadata>")
    assert [each.volume_id for each in looked(flat).volumes] == ["v", "w"]
    assert parsed == [flat]


def test_a_record_is_read_once_though_the_text_around_it_changes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked(document("    <!-- one more -->\n"))

    def refuse(*_: object) -> None:
        raise AssertionError("it was read again")

    monkeypatch.setattr(Record, "model_validate_json", refuse)
    found = looked(document("    <!-- and one more -->\n"))
    assert found.image == RECORD.image


def test_metadata_that_a_caller_has_changed_are_nobody_elses() -> None:
    first = looked(document("    <!-- first -->\n"))
    dict.__setitem__(first.metadata, "a", "b")  # type: ignore[arg-type]
    assert looked(document("    <!-- second -->\n")).metadata == {}
    assert looked(document("    <!-- first -->\n")).metadata == {}


@pytest.mark.parametrize("more", OTHERS)
def test_what_is_shown_is_what_the_model_would_take(more: str) -> None:
    """It is made without a check of the whole: each of its parts is one that passes it."""
    found = looked(document(OTHERS[more]))
    assert vars(found).keys() == InstanceInfo.model_fields.keys()
    assert InstanceInfo.model_validate(vars(found), strict=True) == found
    assert acceptor(InstanceInfo)(found)  # type: ignore[misc]


def test_more_cpus_than_the_flavor_allows_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """``virsh setvcpus`` asks no flavor."""
    flavor = Flavor(vcpus=1, memory_mib=64, max_vcpus=1, max_memory_mib=64)
    monkeypatch.setitem(globals(), "RECORD", RECORD.model_copy(update={"flavor": flavor}))
    found = looked(document())
    assert (found.flavor.vcpus, found.flavor.memory_mib) == (2, 128)


def test_an_image_that_cannot_be_printed_is_a_damaged_record() -> None:
    forged = document().replace('"image": null', '"image": "\\u001b[2J"')
    assert forged != document()
    with pytest.raises(errors.HypervisorFault) as fault:
        looked(forged)
    assert fault.value.hint


def test_a_label_that_no_name_can_be_is_shown_as_near_as_it_can_be() -> None:
    """The mark of an adopted machine is a secret's usage, which any client may write."""
    domain: Any = SimpleNamespace(XMLDesc=lambda _flags: document(), name=lambda: "theirs")
    found = shown(UUID_, domain, InstanceState.RUNNING, "a\nb" + "c" * 80)
    assert found.name == "a\ufffdb" + "c" * 60
