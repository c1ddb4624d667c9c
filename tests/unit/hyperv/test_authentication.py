"""A way to log on whose package is missing is told before anything is sent."""

from __future__ import annotations

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
