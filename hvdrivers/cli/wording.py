"""Hints in the words of the command line.

The library speaks to those who call it: ``power_off() it first``. Who types commands reads
```hvdrivers power off` it first``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import overload

COMMANDS_OF: Mapping[str, str | None] = {
    "abort_migration": "migration abort",
    "adopt": "adopt",
    "attach_share": "share attach",
    "attach_volume": "volume attach",
    "begin_backup": "backup begin",
    "cache_image": "image cache",
    "check_live_migration": "migrate --check",
    "close": None,
    "cold_migrate": "migrate",
    "confirm_move": "move confirm",
    "create_snapshot": "snapshot create",
    "create_volume": "volume create",
    "delete_snapshot": "snapshot delete",
    "delete_volume": "volume delete",
    "destroy": "destroy",
    "detach_share": "share detach",
    "detach_volume": "volume detach",
    "end_backup": "backup end",
    "enter_maintenance": "maintenance on",
    "evict_image": "image evict",
    "exit_maintenance": "maintenance off",
    "extend_volume": "volume extend",
    "finish_move": "move finish",
    "force_migration": "migration force",
    "freeze": "guest freeze",
    "get_available_resource": "resources",
    "get_console": "console",
    "get_console_log": "console-log",
    "get_instance": "show",
    "get_metrics": "metrics",
    "get_volume": "volume show",
    "get_volume_connector": "volume connector",
    "guest_addresses": "addresses",
    "guest_exec": "guest exec",
    "host": "doctor",
    "host_power": "host-power",
    "hot_resize_cpu": "resize",
    "hot_resize_memory": "resize",
    "in_maintenance": "maintenance status",
    "inject_nmi": "power nmi",
    "list_cached_images": "image list",
    "list_foreign": "list --foreign",
    "list_instances": "list",
    "list_snapshots": "snapshot list",
    "list_volumes": "volume list",
    "live_migrate": "migrate",
    "migrate_storage": "migrate-storage",
    "migration_progress": "migration progress",
    "pause": "power pause",
    "ping": "doctor",
    "placement_inventories": "resources",
    "plug_vif": "vif plug",
    "power_off": "power off",
    "power_on": "power on",
    "prepare_move": "move prepare",
    "reboot": "power reboot",
    "rebuild": "rebuild",
    "reconnect": "reconnect",
    "rename": "rename",
    "rescue": "rescue",
    "resize": "resize",
    "resume": "power resume",
    "revert_move": "move revert",
    "revert_snapshot": "snapshot revert",
    "screenshot": "screenshot",
    "set_disk_qos": "volume qos",
    "set_guest_password": "guest password",
    "set_metadata": "metadata",
    "set_vif_qos": "vif qos",
    "snapshot_to_image": "snapshot export",
    "spawn": "spawn",
    "start_paused": "power on --paused",
    "suspend": "power suspend",
    "swap_volume": "volume swap",
    "thaw": "guest thaw",
    "unpause": "power unpause",
    "unplug_vif": "vif unplug",
    "unrescue": "unrescue",
    "watch": "events",
}
"""The command of each operation. None: there is none, and the hint stays as it is."""

ARGUMENTS: Mapping[tuple[str, str], str] = {
    ("destroy", "keep"): "--keep DISK",
    ("power_off", "graceful"): "--graceful SECONDS",
    ("reboot", "RebootKind.HARD"): "",
    ("reboot", "RebootKind.SOFT"): "--soft",
}
"""Options for arguments that a hint names."""

_CALL = re.compile(r"\b(?P<name>[a-z_]+)\((?P<arguments>[^()\n]*)\)")

OPTIONS: Mapping[str, str] = {
    "address=": "migrate --address",
    "config_file=": "list --config",
    "force=True": "console --force",
    "keep=": "destroy --keep",
    "name=": "adopt --name",
    "storage=": "migrate --storage",
    "timeout=": "list --timeout",
}
"""The option for an argument that a hint names outside of a call and without a value of its own,
and a command that has it."""

_OPTION = re.compile(rf"(?<![\w.-])({'|'.join(OPTIONS)})(?![\w{{(\"'])")


@overload
def in_commands(hint: str) -> str: ...
@overload
def in_commands(hint: None) -> None: ...
def in_commands(hint: str | None) -> str | None:
    """A hint with the commands in the place of the operations that it names."""
    return None if hint is None else _OPTION.sub(_option, _CALL.sub(_command, hint))


def _option(found: re.Match[str]) -> str:
    return OPTIONS[found[1]].rpartition(" ")[2]


def _command(found: re.Match[str]) -> str:
    command = COMMANDS_OF.get(found["name"])
    if command is None:
        return found[0]
    words = [f"hvdrivers {command}"]
    for each in found["arguments"].split(","):
        name = each.partition("=")[0].strip()
        words.append(ARGUMENTS.get((found["name"], name), ""))
    return f"`{' '.join(filter(None, words))}`"
