"""Names and paths that look like others."""

from __future__ import annotations

from urllib.parse import parse_qs, unquote, urlsplit
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvdrivers.vmware.files import capacity_in
from hvdrivers.vmware.names import (
    datastore_path,
    escaped,
    machine_name,
    split_path,
    unescaped,
    web_path,
)

UUID_1 = UUID("11111111-2222-3333-4444-555555555555")
TEXT = st.text(st.characters(blacklist_categories=("Cs", "Cc")), min_size=1, max_size=63)


@given(TEXT)
def test_a_stored_name_reads_back(name: str) -> None:
    assert unescaped(escaped(name)) == name


@given(TEXT)
def test_a_machines_name_fits_and_tells_the_instance(label: str) -> None:
    name = machine_name(label, UUID_1)
    assert len(escaped(name)) <= 80
    assert name.endswith(str(UUID_1))
    assert escaped(name) == name, "the server would store another name than the one it was given"


@pytest.mark.parametrize("datastore", ["ds", "ds (1)", "a]b", "[x", "d s]"])
@pytest.mark.parametrize("path", ["a", "a/b.vmdk", "[ds] a", "x] y", "a%2fb"])
def test_a_datastore_path_is_split_where_it_was_joined(datastore: str, path: str) -> None:
    assert split_path(datastore_path(datastore, path)) == (datastore, path)


@pytest.mark.parametrize("text", ["", "a/b", "[ds]a", "ds] a"])
def test_what_is_no_datastore_path_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="datastore path"):
        split_path(text)


@given(TEXT, TEXT, TEXT)
def test_the_web_space_gets_each_part_as_it_is(datacenter: str, store: str, name: str) -> None:
    found = urlsplit(web_path(datacenter, store, f"folder/{name.replace('/', '_')}"))
    assert unquote(found.path) == f"/folder/folder/{name.replace('/', '_')}"
    query = parse_qs(found.query, keep_blank_values=True)
    assert query == {"dcPath": [datacenter], "dsName": [store]}


def test_capacity_is_read_from_the_descriptor() -> None:
    descriptor = b"""# Disk DescriptorFile
version=1
createType="vmfs"
RW 2048 VMFS "a-flat.vmdk"
RW 1024 VMFS "RW 99 b-flat.vmdk"
ddb.adapterType = "lsilogic"
"""
    assert capacity_in(descriptor) == (2048 + 1024) * 512
    assert capacity_in(b"no descriptor") == 0
