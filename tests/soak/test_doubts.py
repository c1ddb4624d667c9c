"""What is done about a migration of whose end nobody knows."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from uuid import UUID

import pytest

from hvdrivers.contract import errors
from hvdrivers.models.instance import InstanceInfo
from hvdrivers.models.state import InstanceState
from tests.soak.doubts import Doubt, Doubts, Hands, settle

_UUID = UUID(int=1)
_LIVE, _COLD = Doubt("live_migrate", 0), Doubt("cold_migrate", 0)
_AWAY = errors.ConnectionFailed("the host does not answer")
_THERE_TOO = errors.InvalidRequest("a machine with this UUID is there")
_OFF = errors.InvalidState("live_migrate is not possible while the instance is stopped")


def _info(state: InstanceState) -> InstanceInfo:
    return InstanceInfo.model_construct(uuid=_UUID, state=state)


_RUNS, _STOPPED, _STANDS = (
    _info(each) for each in (InstanceState.RUNNING, InstanceState.STOPPED, InstanceState.PAUSED)
)
Found = InstanceInfo | errors.HypervisorError | None


class _Played(Hands):
    """Two hosts as they answer, and what was done."""

    def __init__(
        self, *at: Found, moves: errors.HypervisorError | None = None, destroys: Found = None
    ) -> None:
        super().__init__(_UUID, (), ())
        self.at, self._moves, self._destroys = at, moves, destroys
        self.done: list[str] = []

    def read(self, host: int) -> Found:
        return self.at[host]

    def migrate(self, operation: str, host: int) -> errors.HypervisorError | None:
        self.done.append(f"{operation} {host}")
        return self._moves

    def power_off(self, host: int) -> errors.HypervisorError | None:
        self.done.append(f"power_off {host}")
        return None

    def destroy(self, host: int) -> errors.HypervisorError | None:
        self.done.append(f"destroy {host}")
        assert not isinstance(self._destroys, InstanceInfo)
        return self._destroys


@pytest.mark.parametrize(
    ("doubt", "hands", "settled", "done"),
    [
        (_LIVE, _Played(_AWAY, _RUNS), False, ()),
        (_LIVE, _Played(_RUNS, _AWAY), False, ()),
        (_LIVE, _Played(_STANDS, _RUNS), True, ("live_migrate 0",)),
        (_COLD, _Played(_STANDS, _STOPPED), True, ("power_off 0", "cold_migrate 0")),
        (_COLD, _Played(_STOPPED, _STOPPED), True, ("cold_migrate 0",)),
        (
            _LIVE,
            _Played(None, _RUNS, moves=errors.InstanceNotFound("there is none")),
            True,
            ("live_migrate 0",),
        ),
        (_LIVE, _Played(_RUNS, None, moves=_AWAY), False, ("live_migrate 0",)),
        (
            _LIVE,
            _Played(_RUNS, _RUNS, moves=_THERE_TOO),
            True,
            ("live_migrate 0", "destroy 0"),
        ),
        (_LIVE, _Played(_STOPPED, None, moves=_OFF), True, ("live_migrate 0", "destroy 1")),
        (_LIVE, _Played(None, _RUNS, moves=_OFF), True, ("live_migrate 0",)),
        (
            _LIVE,
            _Played(_info(InstanceState.BUILDING), None, moves=_OFF),
            False,
            ("live_migrate 0",),
        ),
        (
            _LIVE,
            _Played(_RUNS, _RUNS, moves=_THERE_TOO, destroys=_AWAY),
            False,
            ("live_migrate 0", "destroy 0"),
        ),
    ],
)
def test_one_of_both_hosts_keeps_it(
    doubt: Doubt, hands: _Played, settled: bool, done: Iterable[str]
) -> None:
    assert (settle(hands, doubt), hands.done) == (settled, list(done))


def test_a_note_is_there_until_the_end_is_known(tmp_path: Path) -> None:
    notes = Doubts(tmp_path)
    for error in (errors.OutcomeUnknown("the reply was lost"), errors.HypervisorFault("no")):
        notes.begin(_UUID, _COLD)
        notes.end(_UUID, error)
        assert Doubts(tmp_path).of(_UUID) == _COLD
        notes.settled(_UUID)
    for known in (None, _OFF, _THERE_TOO, _AWAY):
        notes.begin(_UUID, _LIVE)
        notes.end(_UUID, known)
        assert notes.of(_UUID) is None
