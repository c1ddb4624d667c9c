"""What others write into the elements that the driver keeps in a domain's metadata."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest

from hvdrivers.libvirt.metadata import STATE_NAMESPACE, is_to_run, put, to_run_text


@pytest.mark.parametrize(
    "content", ["", "soon", "2026-11-29T08:00:00", "0001-01-01T00:00:00+00:00", "1" * 5000]
)
def test_a_mark_that_is_no_time(content: str) -> None:
    """Also a time that names no zone: it cannot be compared."""
    assert not is_to_run(put(ET.Element("domain"), STATE_NAMESPACE, content))
    assert is_to_run(put(ET.Element("domain"), STATE_NAMESPACE, to_run_text()))
