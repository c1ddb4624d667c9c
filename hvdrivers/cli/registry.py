"""The table of commands: what there is, where its code is, and one line of help for each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Entry(NamedTuple):
    """Where a command is. Its help stands here too: ``--help`` must not import them all."""

    where: str
    section: str
    help: str


COMMANDS: Mapping[str, Entry] = {
    "drivers": Entry("plugins:drivers", "Drivers and hosts", "List the installed drivers."),
    "hosts": Entry("plugins:hosts", "Drivers and hosts", "List the hosts of the file of hosts."),
    "doctor": Entry(
        "doctor:doctor", "Drivers and hosts", "Check that a host is fit to run instances."
    ),
    "capabilities": Entry(
        "host:capabilities", "Drivers and hosts", "Show what a host can do, and why not the rest."
    ),
    "resources": Entry(
        "host:resources", "Drivers and hosts", "Show what a host has and what is taken."
    ),
    "maintenance": Entry(
        "host:maintenance", "Drivers and hosts", "Take a host out of service, or back."
    ),
    "host-power": Entry(
        "host:host_power", "Drivers and hosts", "Reboot or shut down the host itself."
    ),
    "events": Entry("events:events", "Drivers and hosts", "Follow what changes on a host."),
    "metrics": Entry("host:metrics", "Drivers and hosts", "Show the counters of instances."),
    "list": Entry("instances:list_", "Instances", "List the instances of a host."),
    "show": Entry("instances:show", "Instances", "Show one instance in full."),
    "spawn": Entry("spawn:spawn", "Instances", "Make an instance and start it."),
    "destroy": Entry(
        "destroy:destroy", "Instances", "Remove instances and all that was made for them."
    ),
    "power": Entry(
        "power:power", "Instances", "Switch an instance on or off, pause it, reboot it."
    ),
    "resize": Entry(
        "resize:resize", "Instances", "Give an instance another size: CPUs, memory, root disk."
    ),
    "rename": Entry("instances:rename", "Instances", "Change the label of an instance."),
    "metadata": Entry(
        "instances:metadata", "Instances", "Show or change the metadata of an instance."
    ),
    "adopt": Entry("instances:adopt", "Instances", "Take over a machine that somebody else made."),
    "migrate": Entry("migrate:migrate", "Instances", "Move an instance to another host."),
    "migration": Entry(
        "migration:group", "Instances", "Look at a running live migration, end it or hurry it."
    ),
    "move": Entry(
        "move:group", "Instances", "Move a stopped instance in steps that can be taken back."
    ),
    "reconnect": Entry(
        "reconnect:reconnect",
        "Instances",
        "Replace the connections of volumes and NICs of a stopped instance",
    ),
    "rescue": Entry("repair:rescue", "Instances", "Boot an instance from a rescue image"),
    "unrescue": Entry(
        "repair:unrescue", "Instances", "Boot a rescued instance from its own root disk again."
    ),
    "rebuild": Entry(
        "repair:rebuild", "Instances", "Replace the root disk of an instance by a fresh one."
    ),
    "console-log": Entry(
        "console:console_log", "Guests", "Show what a guest wrote to its console."
    ),
    "console": Entry(
        "console:console", "Guests", "Show where a console can be reached, with its ticket."
    ),
    "screenshot": Entry(
        "console:screenshot", "Guests", "Write a picture of an instance's screen to a file."
    ),
    "guest": Entry(
        "guest:group",
        "Guests",
        "What an agent in the guest does: run a program, freeze, set a password.",
    ),
    "addresses": Entry("console:addresses", "Guests", "Show the addresses of a guest."),
    "volume": Entry(
        "volume:group",
        "Storage and network",
        "Volumes: make, attach, swap, limit, detach, delete.",
    ),
    "vif": Entry("vif:group", "Storage and network", "NICs: plug, limit, unplug."),
    "snapshot": Entry("snapshot:group", "Storage and network", "Snapshots of an instance."),
    "backup": Entry(
        "backup:group",
        "Storage and network",
        "Open a point in time for backup software, and close it.",
    ),
    "share": Entry(
        "share:group", "Storage and network", "Directories of the host that a guest mounts."
    ),
    "migrate-storage": Entry(
        "migrate:migrate_storage",
        "Storage and network",
        "Move an instance's own disks to another pool of its host.",
    ),
    "image": Entry("image:group", "Storage and network", "The host's cache of images."),
    "conformance": Entry(
        "conformance:group", "Writing drivers", "Check whether a driver keeps the contract."
    ),
    "new-driver": Entry(
        "scaffold:new_driver", "Writing drivers", "Make the package of a driver to be written."
    ),
}
"""Every command, in the order of the help."""
