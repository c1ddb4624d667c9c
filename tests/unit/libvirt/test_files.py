"""Which file a text means."""

from __future__ import annotations

import pytest

from hvdrivers.libvirt.files import base_path, clean, is_within, paths_in, times_of
from hvdrivers.libvirt.xml import el, parse


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("/pool/a", "/pool/a"),
        ("/pool/./a", "/pool/a"),
        ("//pool///x/../a", "/pool/a"),
        ("a", "/pool/a"),
        ("file:/pool/a", "/pool/a"),
        ("file:///pool/a", "/pool/a"),
        ('json:{"driver":"qcow2","file":{"driver":"file","filename":"/pool/a"}}', "/pool/a"),
        ('json:{"file.driver":"file","file.filename":"./a"}', "/pool/a"),
        ('json:{"file":{"driver":"nbd","export":"a"}}', ""),
        ("json:{", ""),
        ("json:" + "[" * 100_000, ""),
        ("nbd:host:10809", ""),
        ("https://host/a", ""),
        ("", ""),
    ],
)
def test_the_base_that_an_overlay_names(name: str, meant: str) -> None:
    description = el(
        "volume",
        el("target", el("path", "/pool/over")),
        el("backingStore", el("path", name)),
    )
    assert base_path(description) == meant


def test_paths_of_a_definition() -> None:
    document = parse(
        "<domain><os><kernel> /a//k </kernel></os><disk><source file='/b/./d'/></disk></domain>"
    )
    assert paths_in(document) == {"/a/k", "/b/d"}
    assert clean("") == ""


def test_times() -> None:
    written = el("timestamps", el("mtime", "7.000000001"), el("ctime", "8"))
    first = times_of(el("target", written))
    later = times_of(el("target", el("timestamps", el("mtime", "7.000000002"), el("ctime", "9"))))
    assert is_within(first, first, first)
    assert is_within(first, first, later)
    assert not is_within(later, first, first)
    assert times_of(el("target")) is None
    assert not is_within(None, first, first)
