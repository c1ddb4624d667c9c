"""Secrets on their way to the host. Windows may log what cmdlets get, and one of them gets the JSON
of each request."""

from __future__ import annotations

import base64
import json
from uuid import uuid4

from pydantic import SecretStr

from hvdrivers.hyperv.guest import HypervGuest
from hvdrivers.hyperv.host_disks import disk_of
from hvdrivers.hyperv.library import Json, Secret
from hvdrivers.hyperv.open_requests import OpenRequests
from hvdrivers.models.guest import GuestCredentials
from hvdrivers.models.volume import parse_connection_info


def sent(arguments: dict[str, Json], data: bytes | None = None) -> tuple[str, list[bytes]]:
    """The JSON of the line for these, and the words behind it."""
    _, request = OpenRequests("nonce").register("Any", arguments, 1, data)
    words = request.line.split()
    assert words[-1] == b"."
    return base64.b64decode(words[5]).decode(), words[6:-1]


def test_a_secret_is_beside_the_json() -> None:
    text, rest = sent(
        {"a": [{"b": Secret("pass,word \u00e9")}], "c": "d", "e": Secret("")}, b"data"
    )
    assert json.loads(text) == {"a": [{"b": "#0"}], "c": "=d", "e": "#1"}
    data, secrets = rest
    assert base64.b64decode(data) == b"data"
    assert [base64.b64decode(each).decode() for each in secrets.split(b",")] == [
        "pass,word \u00e9",
        "",
    ]
    assert sent({"a": Secret("b")})[1][0] == b"-"
    assert sent({"a": "b"})[1] == []
    assert "pass" not in repr({"a": Secret("pass")})


class Recorder:
    """Keeps the arguments of the calls that a topic makes."""

    def __init__(self) -> None:
        self.arguments: dict[str, Json] = {}

    def change(self, *given: object) -> None:
        arguments = given[3]
        assert isinstance(arguments, dict)
        self.arguments = arguments


def test_passwords_are_secrets_in_each_request() -> None:
    recorder = Recorder()
    guest = HypervGuest.__new__(HypervGuest)
    guest.session = recorder  # type: ignore[assignment]
    account = GuestCredentials(user="Administrator", password=SecretStr("first-secret"))
    guest.set_guest_password(uuid4(), "Administrator", SecretStr("new-secret"), credentials=account)
    connection = {
        "driver_volume_type": "iscsi",
        "data": {
            "target_portal": "192.0.2.1:3260",
            "target_iqn": "iqn.2026-01.org.example:a",
            "target_lun": 0,
            "volume_id": "a",
            "auth_method": "CHAP",
            "auth_username": "operator",
            "auth_password": "chap-secret-77",
        },
    }
    disk = disk_of(parse_connection_info(connection))
    text, rest = sent({**recorder.arguments, "disk": disk})
    assert "secret" not in text.replace('"secret":', "")
    found = {base64.b64decode(each).decode() for each in rest[1].split(b",")}
    assert found == {"first-secret", "new-secret", "chap-secret-77"}
