"""What connect() takes."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from hvdrivers.contract.errors import InvalidRequest
from hvdrivers.vmware.config import VmwareConfig

GIVEN = {"host": "vc.example", "username": "root", "password": "secret"}


def test_a_url_names_the_server_and_the_cluster() -> None:
    config = VmwareConfig.from_url(
        "vcenter://adm%40vsphere.local@vc.example:8443/DC%201/C0?datastore=ds%201",
        password="secret",
    )
    assert (config.host, config.port, config.username) == (
        "vc.example",
        8443,
        "adm@vsphere.local",
    )
    assert (config.datacenter, config.compute, config.datastore) == ("DC 1", "C0", "ds 1")
    assert config.host_label == "vsphere://vc.example:8443/C0"


@pytest.mark.parametrize(
    "url",
    [
        "esxi://root:secret@host",
        "esxi://root@host/dc/cluster/more",
        "esxi://root@host?no_such_field=1",
        "vcenter://root@/",
    ],
)
def test_a_url_that_is_wrong_is_refused_without_its_secrets(url: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        VmwareConfig.from_url(url, password="hidden-word")
    assert "hidden-word" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_one_way_of_trust() -> None:
    with pytest.raises(ValidationError, match="give one of"):
        VmwareConfig(**GIVEN, thumbprint="ab" * 32, verify_tls=False)
    config = VmwareConfig(**GIVEN, thumbprint=":".join(["AB"] * 32))
    assert config.thumbprint == "ab" * 32
    with pytest.raises(ValidationError, match="thumbprint"):
        VmwareConfig(**GIVEN, thumbprint="ab" * 20)


@pytest.mark.parametrize("name", ["", "a/b", "..", "a]", "%2f"])
def test_the_folder_is_one_plain_name(name: str) -> None:
    with pytest.raises(ValidationError):
        VmwareConfig(**GIVEN, directory=name)


def test_the_password_is_not_shown() -> None:
    assert "secret" not in repr(VmwareConfig(**GIVEN))
