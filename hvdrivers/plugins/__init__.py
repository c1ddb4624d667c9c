"""Drivers as plug-ins: find them, judge them, connect with them.

A driver is a class that a package registers under a name, and optionally under URL schemes::

    [project.entry-points."hvdrivers.drivers"]
    acme = "acme_hv.driver:AcmeDriver"

    [project.entry-points."hvdrivers.schemes"]
    acme = "acme_hv.driver:AcmeDriver"

Drivers of this repository are registered in the same way and have no advantage. A driver is
imported when somebody connects with it or lists it, and refused with the reason if its class does
not keep the contract (``plugins/check.py`` has the rules).

Discovery goes through stevedore, which keeps a cache of entry points under
``$XDG_CACHE_HOME/python-entrypoints`` (``~/.cache``); where that must not be, put a file named
``.disable`` there. An outdated cache does no harm: what is installed decides.
"""

from hvdrivers.plugins.connecting import connect
from hvdrivers.plugins.discovery import PluginInfo, list_plugins, load_driver
from hvdrivers.plugins.hosts import default_hosts_file, list_hosts

__all__ = [
    "PluginInfo",
    "connect",
    "default_hosts_file",
    "list_hosts",
    "list_plugins",
    "load_driver",
]
