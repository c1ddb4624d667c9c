"""Inside the guest, by VMware Tools: addresses, programs, passwords.

Tools tell addresses to everybody. For the rest they ask for an account of the guest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any
from uuid import UUID

from pydantic import SecretStr

from hvdrivers.contract import errors
from hvdrivers.contract.guest import GuestAddresses, GuestExec, GuestPassword
from hvdrivers.hints import USER
from hvdrivers.models.guest import AddressSource, ExecResult, GuestAddress, GuestCredentials
from hvdrivers.vmware.base import Topic
from hvdrivers.vmware.deadline import timed
from hvdrivers.vmware.devices import by_mac
from hvdrivers.vmware.guest_line import check_text
from hvdrivers.vmware.guest_programs import INSIDE, TOOLS, require_tools

_CHPASSWD = "/usr/sbin/chpasswd"
"""Takes ``user:password`` lines from its input, so that no password is on a command line."""


class VmwareGuest(Topic, GuestAddresses, GuestExec, GuestPassword):
    """What Tools tell and do."""

    @timed
    def guest_addresses(
        self, uuid: UUID, *, timeout: float | None = None
    ) -> Sequence[GuestAddress]:
        """Budget: 1 read. Without VMware Tools nobody knows: the server keeps what it was told
        last, which is left out."""
        del timeout
        paths = (TOOLS, "guest.net", "config.hardware.device")
        row = self.machines.checked("guest_addresses", uuid, *paths).row
        if row.get(TOOLS) != "guestToolsRunning":
            return ()
        macs = by_mac(row.get("config.hardware.device") or ())
        return tuple(
            GuestAddress(mac=mac, address=address, prefix_length=length, source=AddressSource.AGENT)
            for nic in row.get("guest.net") or ()
            if (mac := (nic.macAddress or "").lower()) in macs
            for address, length in _addresses(nic)
        )

    @timed
    def guest_exec(
        self,
        uuid: UUID,
        command: Sequence[str],
        *,
        stdin: bytes = b"",
        credentials: GuestCredentials | None = None,
        timeout: float | None = None,
    ) -> ExecResult:
        """Budget: 1 read, 7 calls and a request; 1 request for each output that there is, and a
        call each time that Tools are asked whether the program has ended: after 20 ms, and then
        ever less often, at least once a second. Where the server's certificate is pinned, 1 read
        more for each ESXi host, once for a connection.

        Of each output 16 MiB are read; ``truncated`` says that there was more."""
        del timeout
        found = self.machines.checked("guest_exec", uuid, *INSIDE)
        require_tools(found)
        return self.programs.run(found, command, stdin, [_account(credentials)])

    @timed
    def set_guest_password(
        self,
        uuid: UUID,
        user: str,
        password: SecretStr,
        *,
        credentials: GuestCredentials | None = None,
        timeout: float | None = None,
    ) -> None:
        """Budget: as guest_exec(): the guest's ``chpasswd`` sets it.

        vSphere's API has no call for it, so the account must be one that may run that program:
        root."""
        del timeout
        found = self.machines.checked("set_guest_password", uuid, *INSIDE)
        require_tools(found)
        account = _account(credentials)
        secret = password.get_secret_value()
        if not user or any(each in user for each in ":\n\0"):
            raise errors.InvalidRequest("no user of a guest has such a name", hint=USER)
        if not secret or "\n" in secret or "\0" in secret:
            raise errors.InvalidRequest(
                "the guest's chpasswd takes no empty password, and none with a line break",
                hint="give another password",
            )
        accounts = [account]
        if user == account.user:
            check_text("the password", secret)
            accounts.append(GuestCredentials(user=user, password=password))
        line = f"{user}:{secret}\n".encode()
        try:
            done = self.programs.run(found, [_CHPASSWD], line, accounts)
        except errors.InvalidRequest as error:
            if error.vendor_code != "FileNotFound":
                raise
            raise errors.NotSupported(
                f"the guest has no {_CHPASSWD}",
                vendor_code=error.vendor_code,
                hint="set it by guest_exec(), with a program that the guest has",
            ) from error
        if done.exit_code:
            # not what it has said: that may have the password in it
            raise errors.InvalidRequest(
                "the guest did not set the password",
                vendor_code=f"exit code {done.exit_code}",
                hint="does it know that user, does it take such a password, and may the account"
                " set it?",
            )


def _account(credentials: GuestCredentials | None) -> GuestCredentials:
    if credentials is None:
        raise errors.InvalidRequest(
            "VMware Tools ask for an account of the guest", hint="give credentials="
        )
    return credentials


def _addresses(nic: Any) -> Iterator[tuple[IPv4Address | IPv6Address, int | None]]:
    if nic.ipConfig is not None:
        for each in nic.ipConfig.ipAddress or ():
            # a link-local one may carry the guest's own name of the interface
            yield ip_address(each.ipAddress.partition("%")[0]), each.prefixLength
    else:
        for text in nic.ipAddress or ():
            yield ip_address(text.partition("%")[0]), None
