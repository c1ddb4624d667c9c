"""Test-Path for the paths of shares, which the engine of a simulated host cannot reach itself."""

from hvdrivers.hyperv.simulator.cmdlets.call import Call
from hvdrivers.hyperv.simulator.cmdlets.registry import cmdlet
from hvdrivers.hyperv.simulator.errors import CmdletError


@cmdlet("Test-Path")
def test_path(call: Call) -> None:
    """No is also the answer where the share lets nobody see."""
    for path in call.texts("LiteralPath"):
        try:
            call.host.files.ask(path)
            file = call.host.files.file(path)
        except CmdletError:
            call.write(False)
            continue
        wanted = {"Leaf": file.is_file, "Container": file.is_dir}
        call.write(wanted.get(call.text("PathType"), file.exists)())
