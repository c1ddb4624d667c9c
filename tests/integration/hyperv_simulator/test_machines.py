"""Machines of the simulated host, through a real PowerShell."""

from __future__ import annotations

import base64

import pytest

from hvdrivers.hyperv.simulator.cmdlets.call import Call
from hvdrivers.hyperv.simulator.host import SimulatedHost
from hvdrivers.hyperv.simulator.stateserver import run
from hvdrivers.hyperv.simulator.wire import Request
from tests.integration.hyperv_simulator.conftest import Engine, PowerShellError

NEW = "New-VM -Name {0} -Generation 2 -MemoryStartupBytes 512MB -NoVHD"


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("New-VM -NoVHD -VHDPath C:\\a.vhdx", "AmbiguousParameterSet"),
        ("New-VM -Name x -Generation 3", "ParameterArgumentValidationError"),
        ("Stop-VM -Name x -PowerOff", "NamedParameterNotFound"),
        ("Get-VM -Id nonsense", "ParameterArgumentTransformationError"),
        ("Set-VM -Name x -AutomaticStopAction Explode", "ParameterArgumentTransformationError"),
        ("Set-VMFirmware -VMName x -EnableSecureBoot Yes", "ParameterArgumentTransformationError"),
        ("Rename-VM -Name x", "MissingMandatoryParameter"),
        ("Start-VM -VM ([pscustomobject]@{ Id = 1 })", "MismatchedPSTypeName"),
    ],
)
def test_the_binder_refuses_a_wrong_call(engine: Engine, script: str, code: str) -> None:
    with pytest.raises(PowerShellError) as caught:
        engine(script)
    assert caught.value.code == code
    assert caught.value.id.split(",")[1].startswith("Microsoft.HyperV.PowerShell.Commands.")


def test_a_new_machine_is_seen_by_the_observer(engine: Engine, host: SimulatedHost) -> None:
    identity = engine.one(f"({NEW.format('one')}).Id.ToString()")
    (machine,) = host.state.machines.values()
    assert str(machine.id) == identity
    assert machine.config.memory.startup == 512 << 20
    assert [nic.name for nic in machine.config.adapters] == ["Network Adapter"]


def test_values_have_the_types_of_dotnet(engine: Engine) -> None:
    assert engine(
        f"$vm = {NEW.format('typed')}; 'Id', 'Name', 'MemoryStartup', 'Uptime', 'CreationTime', "
        "'Generation' | ForEach-Object { $vm.$_.GetType().Name }; $vm.PSObject.TypeNames[0]"
    ) == [
        "Guid",
        "String",
        "Int64",
        "TimeSpan",
        "DateTime",
        "Int32",
        "Microsoft.HyperV.PowerShell.VirtualMachine",
    ]


def test_names_are_not_unique_and_are_patterns(engine: Engine) -> None:
    engine("; ".join(f"$null = {NEW.format(name)}" for name in ("twin", "twin", "'vm[1]'", "vm1")))
    assert engine("@(Get-VM -Name twin).Count; (Get-VM -Name 'vm[1]').Name") == [2, "vm1"]
    assert engine("Get-VM -Name 'nothing*'") == []


def test_a_missing_machine(engine: Engine) -> None:
    with pytest.raises(PowerShellError) as caught:
        engine("Get-VM -Name nobody")
    assert caught.value.id == "InvalidParameter,Microsoft.HyperV.PowerShell.Commands.GetVM"
    assert caught.value.category == "InvalidArgument"
    with pytest.raises(PowerShellError) as caught:
        engine("Start-VM -Name nobody")
    assert caught.value.id == "ObjectNotFound,Microsoft.HyperV.PowerShell.Commands.StartVM"


def test_messages_are_localised_and_codes_are_not(engine: Engine, host: SimulatedHost) -> None:
    host.state.language = "de"
    try:
        with pytest.raises(PowerShellError) as caught:
            engine("Start-VM -Name niemand")
        assert "konnte keinen virtuellen Computer" in caught.value.message
        assert caught.value.code == "ObjectNotFound"
        assert engine.one(f"({NEW.format('eins')}).NetworkAdapters[0].Name") == "Netzwerkkarte"
    finally:
        host.state.language = "en"


def test_power_through_its_states(engine: Engine, host: SimulatedHost) -> None:
    engine(f"$null = {NEW.format('p')}")
    assert engine.one("(Start-VM -Name p -Passthru).State") == "Running"
    assert engine.one("(Suspend-VM -Name p -Passthru).State") == "Paused"
    assert engine.one("(Resume-VM -Name p -Passthru).State") == "Running"
    assert engine.one("(Save-VM -Name p -Passthru).State") == "Saved"
    with pytest.raises(PowerShellError) as caught:
        engine("Suspend-VM -Name p")
    assert (caught.value.code, caught.value.hresult) == ("InvalidState", 0x80048052)
    assert engine.one("(Start-VM -Name p -Passthru).State") == "Running"
    engine("Restart-VM -Name p -Force")
    assert engine.one("(Stop-VM -Name p -TurnOff -Force -Passthru).State") == "Off"
    ids = [r.event for log in host.state.log.records.values() for r in log]
    assert ids == [13002, 18500, 18516, 18518, 18510, 18596, 18512, 18502]


def test_a_soft_stop_waits_for_the_guest_and_a_stubborn_guest_stays_on(
    engine: Engine, host: SimulatedHost
) -> None:
    engine(f"$null = {NEW.format('soft')}; Start-VM -Name soft")
    (machine,) = host.state.machines.values()
    with host.world.lock:
        guest = machine.guest
        assert guest is not None
        assert host.state.wait_for(guest.heartbeat, 60)
    assert engine.one("(Stop-VM -Name soft -Force -Passthru).State") == "Off"
    host.guests.of[machine.id] = host.guests.default.__class__(obeys_shutdown=False)
    host.state.timing.shutdown_limit = 0.2
    engine("Start-VM -Name soft")
    with host.world.lock:
        guest = machine.guest
        assert guest is not None
        assert host.state.wait_for(guest.heartbeat, 60)
    with pytest.raises(PowerShellError) as caught:
        engine("Stop-VM -Name soft -Force")
    assert caught.value.code == "OperationFailed"
    assert machine.state == "Running"
    host.state.timing.shutdown_limit = 300.0


def test_a_question_ends_a_script_that_cannot_be_asked(engine: Engine, host: SimulatedHost) -> None:
    engine(f"$null = {NEW.format('kept')}")
    with pytest.raises(PowerShellError):
        engine("Remove-VM -Name kept")
    assert len(host.state.machines) == 1
    engine("Remove-VM -Name kept -Force")
    assert not host.state.machines


def test_memory_comes_in_steps_of_two_mebibytes(engine: Engine) -> None:
    engine(f"$null = {NEW.format('m')}")
    with pytest.raises(PowerShellError) as caught:
        engine("Set-VMMemory -VMName m -StartupBytes (513MB)")
    assert caught.value.code == "InvalidParameter"
    assert (
        engine.one(
            "Set-VMMemory -VMName m -DynamicMemoryEnabled $true -MinimumBytes 256MB "
            "-MaximumBytes 1GB;"
            "(Get-VMMemory -VMName m).Maximum"
        )
        == 1 << 30
    )


def test_too_little_memory_has_its_own_code(engine: Engine) -> None:
    engine("$null = New-VM -Name big -NoVHD -MemoryStartupBytes 1TB")
    with pytest.raises(PowerShellError) as caught:
        engine("Start-VM -Name big")
    assert caught.value.id == "OutOfMemory,Microsoft.HyperV.PowerShell.Commands.StartVM"
    assert caught.value.hresult == 0x8007000E


def test_a_killed_shell_loses_nothing_and_its_work_goes_on(host: SimulatedHost) -> None:
    host.state.timing.start = 0.5
    first = Engine(host)
    first(f"$null = {NEW.format('survivor')}")
    first.send("Start-VM -Name survivor")
    (machine,) = host.state.machines.values()
    with host.world.lock:
        assert host.state.wait_for(lambda: machine.state == "Starting", 60)
    first.kill()
    with host.world.lock:
        assert host.state.wait_for(lambda: machine.state == "Running", 60)
    host.state.timing.start = 0.02
    second = Engine(host)
    assert second.one("(Get-VM -Name survivor).State") == "Running"
    second.close()


def test_hostile_text_stays_text(engine: Engine, host: SimulatedHost) -> None:
    text = "\u2019; '$(Remove-VM *)'`n \"<&>\" _x000A_ \x07\u00e9\U0001f600\ttab\r\nline"
    quoted = "[Text.Encoding]::Unicode.GetString([Convert]::FromBase64String('{}'))"
    literal = quoted.format(base64.b64encode(text.encode("utf-16-le")).decode())
    engine(f"$null = {NEW.format('h')}; Set-VM -Name h -Notes ({literal})")
    (machine,) = host.state.machines.values()
    assert machine.config.notes == text
    assert engine.one(f"(Get-VM -Name h).Notes -ceq {literal}") is True


def test_turning_off_ends_a_start(engine: Engine, host: SimulatedHost) -> None:
    host.state.timing.start = 3600.0
    try:
        engine(f"$null = {NEW.format('slow')}")
        (machine,) = host.state.machines.values()
        engine.send("Start-VM -Name slow")
        with host.world.lock:
            assert host.state.wait_for(lambda: machine.state == "Starting", 60)
        bound = {"Name": ["slow"], "TurnOff": True, "Force": True}
        call = Call(host.state, Request("Stop-VM", "Name", bound), lambda *_: False)
        run(call)
        assert call.answers == []
        assert machine.state == "Off"
        with pytest.raises(PowerShellError) as caught:
            engine.receive()
        assert caught.value.hresult == 0x800704C7
    finally:
        host.state.timing.start = 0.02
