"""Values on the command line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvdrivers.cli import parse
from hvdrivers.cli.console import news
from hvdrivers.cli.output import size, to_data, to_json, to_yaml
from hvdrivers.cli.report import BadUsageError
from hvdrivers.models.image import FileImage, HostImage, HttpImage, ImageFormat
from hvdrivers.models.vif import BridgeVif, NetworkVif, OvsVif

DIGEST = "sha256:" + "ab" * 32


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("512", 512), ("512MiB", 512), ("512M", 512), ("2GiB", 2048), ("2g", 2048), ("0.5G", 512)],
)
def test_mib(text: str, wanted: int) -> None:
    assert parse.mib("--memory", text) == wanted


@pytest.mark.parametrize(("text", "wanted"), [("20", 20), ("20GB", 20), ("1TiB", 1024), ("0", 0)])
def test_gib(text: str, wanted: int) -> None:
    assert parse.gib("--disk", text) == wanted


@pytest.mark.parametrize(("text", "wanted"), [("2048", 2048), ("2MiB", 2048), ("1G", 1 << 20)])
def test_kib(text: str, wanted: int) -> None:
    assert parse.kib("--page-size", text) == wanted


@pytest.mark.parametrize("text", ["", "x", "-1", "1.5", "1KiB", "2 GiB x", "1e3", "1PiB"])
def test_no_sizes(text: str) -> None:
    with pytest.raises(BadUsageError, match="--memory"):
        parse.mib("--memory", text)


@pytest.mark.parametrize(
    ("text", "image_format", "wanted"),
    [
        ("disk.qcow2", None, ImageFormat.QCOW2),
        ("disk.RAW", None, ImageFormat.RAW),
        ("disk.img", "raw", ImageFormat.RAW),
        ("disk.qcow2", "raw", ImageFormat.RAW),
    ],
)
def test_files(text: str, image_format: str | None, wanted: ImageFormat) -> None:
    image = parse.image(text, image_format=image_format)
    assert isinstance(image, FileImage)
    assert image.format is wanted


def test_urls() -> None:
    image = parse.image("https://h.example/a.qcow2?sig=x", checksum=DIGEST)
    assert isinstance(image, HttpImage)
    assert image.format is ImageFormat.QCOW2


def test_images_of_the_host() -> None:
    image = parse.image("host:debian 12")
    assert isinstance(image, HostImage)
    assert (image.name, image.format) == ("debian 12", None)
    with pytest.raises(BadUsageError):
        parse.image("host:x", checksum=DIGEST)


def test_nics() -> None:
    nic = parse.nic("network:default")
    assert isinstance(nic, NetworkVif)
    assert nic.network == "default"
    nic = parse.nic("type=bridge,bridge=br0,mac=52:54:00:12:34:56,mtu=9000,id=p1")
    assert isinstance(nic, BridgeVif)
    assert (nic.bridge, nic.address, nic.mtu, nic.id) == ("br0", "52:54:00:12:34:56", 9000, "p1")
    nic = parse.nic("ovs:br-int,vlan=7")
    assert isinstance(nic, OvsVif)
    assert nic.vlan == 7
    nic = parse.nic("network:a,,b,mtu=1500")
    assert isinstance(nic, NetworkVif)
    assert (nic.network, nic.mtu) == ("a,b", 1500)
    assert parse.nic("bridge:br0").id != parse.nic("bridge:br0").id


@pytest.mark.parametrize(
    "text",
    ["", "br0", "bridge:", "token:br0", "bridge:br0,", "bridge:br0,mtu=x", "type=bridge,type=ovs"],
)
def test_no_nics(text: str) -> None:
    with pytest.raises(BadUsageError, match="--nic"):
        parse.nic(text)


@pytest.mark.parametrize("text", ["default", "netwrk:default", "network=default"])
def test_a_nic_that_is_connected_to_nothing(text: str) -> None:
    with pytest.raises(BadUsageError, match="does not say what the NIC is connected to") as caught:
        parse.nic(text)
    assert "network:NAME" in (caught.value.hint or "")


@given(st.binary(max_size=300), st.binary(max_size=300), st.integers(1, 300))
def test_news_of_a_growing_log(before: bytes, added: bytes, window: int) -> None:
    """What is new is found, unless more came than one look shows."""
    seen, now = before[-window:], (before + added)[-window:]
    found = news(seen, now)
    if found is None:
        assert len(added) >= window - 64 or len(added) + len(seen) > window
    else:
        assert now.endswith(found)
        assert (seen + found).endswith(now) or len(found) == len(now)


def test_news_of_a_quiet_log_is_nothing() -> None:
    assert news(b"abc", b"abc") == b""
    assert news(b"", b"abc") == b"abc"
    assert news(b"a\na\n", b"a\na\na\n") == b"a\n"


@pytest.mark.parametrize(
    ("count", "text"),
    [(None, None), (0, "0 B"), (1024, "1 KiB"), (1536, "1.5 KiB"), (1 << 50, "1024.0 TiB")],
)
def test_sizes_for_people(count: int | None, text: str | None) -> None:
    assert size(count) == text


def test_sets_are_sorted_and_secrets_masked() -> None:
    from pydantic import SecretStr

    assert to_data({"b": {3, 1, 2}, "s": SecretStr("hidden")}) == {"b": [1, 2, 3], "s": "*" * 10}


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_json_and_yaml_carry_any_text(text: str) -> None:
    import json

    import yaml

    assert json.loads(to_json([text])) == [text]
    written = to_yaml([text])
    assert yaml.safe_load(written) == [text]
    assert written.replace("\n", "").isprintable()
