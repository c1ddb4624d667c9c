"""Names of files, and the labels that people give."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from hvdrivers.contract import errors
from hvdrivers.hyperv.config import HypervConfig
from hvdrivers.hyperv.naming import (
    belongs_to_host,
    from_word,
    plain_mac,
    shown_mac,
    volume_file,
    volume_name,
    word,
)
from hvdrivers.models.volume import VolumeSpec

_TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)


def _may_be_given(name: str) -> bool:
    try:
        VolumeSpec(name=name, size_bytes=1 << 20)
    except ValidationError:
        return False
    return True


@given(_TEXT)
def test_a_volume_name_comes_back(name: str) -> None:
    file = volume_file(name)
    assert volume_name(file) == (name if _may_be_given(name) else None)
    assert file == file.lower()
    assert not set(file) & set('<>:"/\\|?*% ')


@given(_TEXT, _TEXT)
def test_two_names_are_two_files_where_case_does_not_count(first: str, second: str) -> None:
    assert (volume_file(first).casefold() == volume_file(second).casefold()) == (first == second)


@pytest.mark.parametrize("name", ["CON", "nul", "com1", "a.", "aux.txt"])
def test_what_windows_reserves_is_an_ordinary_name(name: str) -> None:
    file = volume_file(name)
    assert file.startswith("v-")
    assert volume_name(file) == name


def test_a_name_that_is_too_long_is_refused() -> None:
    with pytest.raises(errors.InvalidRequest):
        volume_file("Ä" * 60)


def test_other_files_are_no_volumes() -> None:
    for file in ("disk.vhdx", "v-A.vhdx", "v-.vhdx", "v-_zz.vhdx", "v-_ff.vhdx", "v-a.vhd"):
        assert volume_name(file) is None


def test_files_of_names_that_nobody_can_give_are_no_volumes() -> None:
    """Put there by hand: control characters, and a second file for a name."""
    for file in ("v-_00.vhdx", "v-a_0ab.vhdx", "v-_ef_bf_be.vhdx", "v-_61.vhdx", "v-_2f.vhdx"):
        assert volume_name(file) is None


@pytest.mark.parametrize(
    "path",
    [
        "c:\\HV\\images\\a.vhdx",
        "D:\\pool\\0B1F6E0C-52a1-4f27-9d1c-0d7c5a3e1f11\\root.vhdx",
        "\\\\localhost\\C$\\hv\\instances\\a\\root.vhdx",
        "\\\\nas\\pool\\0b1f6e0c-52a1-4f27-9d1c-0d7c5a3e1f11\\root.vhdx",
    ],
)
def test_what_the_host_keeps_for_instances(path: str) -> None:
    assert belongs_to_host(path, "C:\\hv")


@pytest.mark.parametrize(
    "path",
    [
        "C:\\hv-templates\\a.vhdx",
        "D:\\pool\\v-a.vhdx",
        "\\\\nas\\share\\volume-0b1f6e0c-52a1-4f27-9d1c-0d7c5a3e1f11.vhdx",
        "\\\\nas\\0b1f6e0c-52a1-4f27-9d1c-0d7c5a3e1f11\\volume.vhdx",
    ],
)
def test_what_it_does_not(path: str) -> None:
    assert not belongs_to_host(path, "C:\\hv")


@given(_TEXT)
def test_a_word_is_one_word_of_ascii(text: str) -> None:
    packed = word(text)
    assert packed.isascii()
    assert " " not in packed
    assert from_word(packed) == text


def test_mac_addresses() -> None:
    assert plain_mac("3e:50:ac:b7:c2:8a") == "3E50ACB7C28A"
    assert shown_mac("3E50ACB7C28A") == "3e:50:ac:b7:c2:8a"
    assert shown_mac("000000000000") is None
    assert shown_mac("") is None


@pytest.mark.parametrize("folder", ["C:\\HVDRIV~1", "C:\\hv.", "C:\\hv \\x", "\\\\nas\\s\\a."])
def test_a_folder_of_the_driver_has_one_name(folder: str) -> None:
    """Paths are compared with it."""
    options = {"host": "hv1", "username": "a", "password": "b"}
    for values in ({"folder": folder}, {"pools": {"p": folder}}):
        with pytest.raises(ValidationError, match="short name"):
            HypervConfig.model_validate(options | values)


@pytest.mark.parametrize(
    "pools",
    [
        {"a": "C:\\hv"},
        {"a": "c:\\HV\\images"},
        {"a": "C:/hv/volumes/"},
        {"a": "D:\\p", "b": "d:\\P"},
    ],
)
def test_pools_have_folders_of_their_own(pools: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match="a folder of its own"):
        HypervConfig(host="h", username="u", password="p", folder="C:\\hv", pools=pools)


def test_a_pool_beside_the_folder_or_above_it() -> None:
    pools = {"a": "C:\\hv-second", "b": "C:\\data", "c": "\\\\nas\\vm"}
    for folder in ("C:\\hv", "C:\\data\\hv"):
        HypervConfig(host="h", username="u", password="p", folder=folder, pools=pools)
