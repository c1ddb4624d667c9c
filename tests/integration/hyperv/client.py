"""Another client, in a process of its own: ``python -m tests.integration.hyperv.client``.

The first line of its standard input is the driver's configuration. Each further line is a call,
``["spawn", {...}]``; the answer is a line with the name of the error, or ``done``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from hvdrivers.contract import errors
from hvdrivers.contract.driver import ComputeDriver
from hvdrivers.models.image import FileImage
from hvdrivers.models.instance import Flavor, InstanceSpec
from hvdrivers.models.migration import Destination
from hvdrivers.models.vif import HypervVif
from hvdrivers.models.volume import PoolVolume, VolumeAttachment
from hvdrivers.plugins import connect


def call(driver: ComputeDriver, operation: str, given: Mapping[str, Any]) -> str:
    """Make one call; what came of it."""
    arguments: dict[str, Any] = dict(given)
    uuid = UUID(arguments["uuid"]) if "uuid" in arguments else None
    if operation == "spawn":
        arguments = {"spec": InstanceSpec.model_validate_json(arguments["spec"])}
    elif operation == "attach_volume":
        volume = PoolVolume.model_validate_json(arguments["volume"])
        arguments = {"uuid": uuid, "attachment": VolumeAttachment(volume=volume)}
    elif operation == "plug_vif":
        vif = HypervVif.model_validate_json(arguments["vif"])
        arguments = {"uuid": uuid, "vif": vif}
    elif operation == "rebuild":
        image = FileImage.model_validate_json(arguments["image"])
        arguments = {"uuid": uuid, "image": image}
    elif operation == "resize":
        flavor = Flavor.model_validate_json(arguments["flavor"])
        arguments = {"uuid": uuid, "flavor": flavor}
    elif operation == "live_migrate":
        destination = Destination(host=arguments["host"])
        arguments = {"uuid": uuid, "destination": destination}
    elif uuid is not None:
        arguments["uuid"] = uuid
    try:
        getattr(driver, operation)(**arguments)
    except errors.HypervisorError as error:
        return type(error).__name__
    return "done"


def main() -> None:
    with connect("hyperv", **json.loads(sys.stdin.readline())) as driver:
        print("ready", flush=True)
        for line in sys.stdin:
            print(call(driver, *json.loads(line)), flush=True)


if __name__ == "__main__":
    main()
