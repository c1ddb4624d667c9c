"""A way to log on whose package is missing is told before anything is sent."""

from __future__ import annotations

from pathlib import Path

import pytest
import winrm.transport

from hvdrivers import InvalidRequest, PluginError, connect


@pytest.mark.parametrize(
    ("way", "flag"), [("kerberos", "HAVE_KERBEROS"), ("credssp", "HAVE_CREDSSP")]
)
def test_a_missing_package_is_named(way: str, flag: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(winrm.transport, flag, False)
    with pytest.raises(PluginError) as caught:
        connect(
            "hyperv",
            host="127.0.0.1",
            port=9,
            tls=False,
            username="operator",
            password="secret",
            authentication=way,
        )
    assert caught.value.hint == f"pip install 'pywinrm[{way}]'"


def test_a_url_without_a_password_says_where_it_goes() -> None:
    with pytest.raises(InvalidRequest, match="needs username and password") as caught:
        connect("hyperv://operator@hv1.example.org")
    assert "password_file" in (caught.value.hint or "")
    with pytest.raises(InvalidRequest, match="password: Field required") as caught:
        connect("esxi://root@esx1.example.org")
    assert "password_file" in (caught.value.hint or "")


@pytest.mark.parametrize("name", ["ca_file", "client_certificate", "client_key"])
def test_a_file_that_is_not_there_is_named(name: str, tmp_path: Path) -> None:
    """It looked as if the host could not be reached."""
    there = tmp_path / "there.pem"
    there.write_text("")
    files = {"client_certificate": there, "client_key": there, name: tmp_path / "gone.pem"}
    with pytest.raises(InvalidRequest, match=f"{name} cannot be read") as caught:
        connect("hyperv", host="127.0.0.1", port=9, authentication="certificate", **files)
    assert not caught.value.retryable
    assert "PEM" in (caught.value.hint or "")
