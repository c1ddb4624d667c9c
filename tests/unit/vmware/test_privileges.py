"""The privileges that the page names are those that the API's own description asks for."""

from __future__ import annotations

from pathlib import Path

import pytest
from pyVmomi import vim

PAGE = (Path(__file__).parents[3] / "docs" / "vmware.md").read_text()


@pytest.mark.parametrize(
    "method",
    [
        vim.HostSystem.EnterMaintenanceMode_Task,
        vim.HostSystem.ExitMaintenanceMode_Task,
        vim.HostSystem.RebootHost_Task,
        vim.HostSystem.ShutdownHost_Task,
    ],
    ids=lambda method: str(method.info.wsdlName),
)
def test_the_host_as_a_whole_needs_one_privilege(method: object) -> None:
    needed = method.info.privId  # type: ignore[attr-defined]
    assert f"`{needed}`" in PAGE
    assert needed == "Host.Config.Maintenance"
