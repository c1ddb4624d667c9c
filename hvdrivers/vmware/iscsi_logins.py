"""Hosts that are told of iSCSI targets, with a secret, and log out of them again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hvdrivers.contract import errors
from hvdrivers.models.volume import IscsiVolume
from hvdrivers.models.volume.iscsi import ISCSI_PORT
from hvdrivers.vmware.lun_paths import SYSTEM, Iscsi, initiator_of, name_of
from hvdrivers.vmware.reader import Row


@dataclass(frozen=True)
class Login:
    """The targets of a volume, for one host."""

    new: Sequence[Any]
    """Those that the host was not told of before."""
    old: Sequence[Any]
    auth: Any

    @classmethod
    def of(cls, row: Row, volume: IscsiVolume) -> Login:
        """What to tell a host. No call."""
        chap = volume.chap
        auth = None
        if chap is not None:
            auth = Iscsi.AuthenticationProperties(
                chapAuthEnabled=True,
                chapName=chap.username,
                chapSecret=chap.password.get_secret_value(),
                chapAuthenticationType="chapRequired",
                chapInherited=False,
            )
        configured = initiator_of(row).configuredStaticTarget or ()
        there = {_portal(each) for each in configured}
        wanted = [
            Iscsi.StaticTarget(
                address=each.host, port=each.port, iScsiName=each.iqn, authenticationProperties=auth
            )
            for each in volume.targets
        ]
        new = [each for each in wanted if _portal(each) not in there]
        return cls(new, [each for each in wanted if each not in new], auth)

    def tell(self, row: Row) -> None:
        """Tell a host of them. 1 call for those that it was not told of before, and 1 for others
        with a secret: the array may have another by now."""
        device = initiator_of(row).device
        if self.old and self.auth is not None:
            targets = Iscsi.TargetSet(staticTargets=[_bare(each) for each in self.old])
            row[SYSTEM].UpdateInternetScsiAuthenticationProperties(device, self.auth, targets)
        if self.new:
            row[SYSTEM].AddInternetScsiStaticTargets(device, list(self.new))


def log_out(row: Row, targets: Sequence[Any]) -> None:
    """Let a host forget targets, and what is behind them."""
    if not targets:
        return
    device = initiator_of(row).device
    try:
        row[SYSTEM].RemoveInternetScsiStaticTargets(device, [_bare(each) for each in targets])
    except errors.HypervisorError as error:
        if error.vendor_code != "NotFound":  # it was never told of one
            raise
    row[SYSTEM].RescanHba(device)


def _portal(target: Any) -> tuple[str, int, str]:
    return target.address, target.port or ISCSI_PORT, name_of(target.iScsiName)


def _bare(target: Any) -> Any:
    """A target without its secret."""
    return Iscsi.StaticTarget(address=target.address, port=target.port, iScsiName=target.iScsiName)
