"""The Storage module: disks and volumes of the host, mounted images, initiator ports."""

from hvdrivers.hyperv.simulator.cmdlets.call import Call, has_wildcard, like
from hvdrivers.hyperv.simulator.cmdlets.registry import cmdlet
from hvdrivers.hyperv.simulator.errors import (
    CIM_EXCEPTION,
    E_ACCESS_DENIED,
    CmdletError,
    file_error,
)
from hvdrivers.hyperv.simulator.modules.overrides import cim_type
from hvdrivers.hyperv.simulator.state.files import normal
from hvdrivers.hyperv.simulator.state.host import HostState
from hvdrivers.hyperv.simulator.state.storage import HostDisk
from hvdrivers.hyperv.simulator.wire import Thing, UInt16, UInt32, UInt64, Value


def cim(name: str, properties: dict[str, Value]) -> Thing:
    """A CIM instance of a class."""
    return Thing(
        (
            cim_type(name),
            "Microsoft.Management.Infrastructure.CimInstance",
            "System.Object",
        ),
        properties,
        name,
    )


def not_found(name: str, value: object) -> CmdletError:
    """What a CIM cmdlet says where a query by a property finds nothing."""
    return CmdletError(
        f"CmdletizationQuery_NotFound_{name}",
        "ObjectNotFound",
        "object-not-found",
        target=str(value),
        kind="Microsoft.PowerShell.Cmdletization.Cim.CimJobException",
        name=value,
    )


def cim_error(code: str, why: str, *, category: str = "NotSpecified") -> CmdletError:
    """What a method of a CIM class reports, for example ``StorageWMI 40001``."""
    return CmdletError(code, category, "injected", kind=CIM_EXCEPTION, why=why)


def need_administrator(call: Call) -> None:
    """Members of Hyper-V Administrators may use Hyper-V, not the host's disks."""
    if not call.host.administrator:
        raise CmdletError(
            "StorageWMI 40001",
            "PermissionDenied",
            "access-denied",
            hresult=E_ACCESS_DENIED,
            kind=CIM_EXCEPTION,
            why="",
        )


def disk_view(disk: HostDisk) -> Thing:
    """MSFT_Disk."""
    return cim(
        "MSFT_Disk",
        {
            "Number": UInt32(disk.number),
            "DiskNumber": UInt32(disk.number),
            "UniqueId": disk.unique_id,
            "UniqueIdFormat": "FCPH Name",
            "SerialNumber": disk.serial,
            "FriendlyName": disk.name,
            "Model": disk.name,
            "Manufacturer": "SIM",
            "Path": disk.path,
            "ObjectId": "{1}\\\\SIM\\" + disk.path,
            "Size": UInt64(disk.size),
            "AllocatedSize": UInt64(0),
            "LargestFreeExtent": UInt64(disk.size),
            "BusType": disk.bus,
            "IsOffline": disk.offline,
            "IsReadOnly": disk.read_only,
            "IsBoot": disk.boot,
            "IsSystem": disk.boot,
            "IsClustered": False,
            "PartitionStyle": disk.style,
            "NumberOfPartitions": UInt32(1 if disk.boot else 0),
            "OperationalStatus": "Offline" if disk.offline else "Online",
            "HealthStatus": "Healthy",
            "OfflineReason": "Policy" if disk.offline else None,
            "ProvisioningType": "Fixed",
            "LogicalSectorSize": UInt32(512),
            "PhysicalSectorSize": UInt32(4096),
            "Location": disk.location,
        },
    )


def disks(call: Call) -> list[HostDisk]:
    """The disks that a call means, by any of the parameters of the disk cmdlets."""
    every = [call.host.storage.disks[number] for number in sorted(call.host.storage.disks)]
    if call.has("InputObject"):
        wanted = {item["UniqueId"] for item in call.things("InputObject")}
        return [disk for disk in every if disk.unique_id in wanted]
    for parameter, attribute in (
        ("Number", "number"),
        ("UniqueId", "unique_id"),
        ("SerialNumber", "serial"),
        ("FriendlyName", "name"),
        ("Path", "path"),
    ):
        if not call.has(parameter):
            continue
        found: list[HostDisk] = []
        for value in call.texts(parameter):
            match = [disk for disk in every if like(str(getattr(disk, attribute)), value)]
            if not match and not has_wildcard(value):
                call.error(not_found(parameter, value))
            found.extend(match)
        return found
    for item in call.things("iSCSISession"):
        return [disk for disk in every if disk.session == item.get("SessionIdentifier")]
    for item in call.things("Partition"):
        return [disk for disk in every if str(disk.number) == item.get("DiskNumber")]
    return every


@cmdlet("Get-Disk")
def get_disk(call: Call) -> None:
    need_administrator(call)
    for disk in disks(call):
        call.write(disk_view(disk))


@cmdlet("Set-Disk")
def set_disk(call: Call) -> None:
    need_administrator(call)
    for disk in disks(call):
        if disk.boot:
            raise cim_error("StorageWMI 40001", "Access denied", category="PermissionDenied")
        if call.has("IsOffline"):
            offline = call.flag("IsOffline")
            users = [
                machine
                for machine in call.host.machines.values()
                for drive in machine.config.drives
                if drive.disk_number == disk.number
            ]
            if not offline and users:
                raise cim_error("StorageWMI 41006", "The disk is in use.")
            disk.offline = offline
        disk.read_only = call.flag("IsReadOnly", disk.read_only)


@cmdlet("Initialize-Disk")
def initialize_disk(call: Call) -> None:
    need_administrator(call)
    for disk in disks(call):
        if disk.style != "RAW":
            raise cim_error("StorageWMI 41002", "The disk has already been initialized.")
        if disk.offline or disk.read_only:
            raise cim_error("StorageWMI 41004", "The disk is offline or read only.")
        disk.style = call.text("PartitionStyle", "GPT")
        if call.flag("PassThru"):
            call.write(disk_view(disk))


@cmdlet("Update-HostStorageCache", "Update-Disk")
def rescan(call: Call) -> None:
    need_administrator(call)
    call.host.storage.rescan()


@cmdlet("Get-PhysicalDisk")
def get_physical(call: Call) -> None:
    need_administrator(call)
    for disk in disks(call):
        call.write(
            cim(
                "MSFT_PhysicalDisk",
                {
                    "DeviceId": str(disk.number),
                    "FriendlyName": disk.name,
                    "SerialNumber": disk.serial,
                    "UniqueId": disk.unique_id,
                    "Size": UInt64(disk.size),
                    "BusType": disk.bus,
                    "MediaType": "SSD",
                    "HealthStatus": "Healthy",
                    "OperationalStatus": "OK",
                },
            )
        )


def volume_view(host: HostState) -> Thing:
    """MSFT_Volume of drive ``C:``."""
    return cim(
        "MSFT_Volume",
        {
            "DriveLetter": "C",
            "DriveType": "Fixed",
            "FileSystem": "NTFS",
            "FileSystemType": "NTFS",
            "FileSystemLabel": "",
            "HealthStatus": "Healthy",
            "OperationalStatus": "OK",
            "Size": UInt64(host.disks.capacity),
            "SizeRemaining": UInt64(host.disks.free()),
            "AllocationUnitSize": UInt32(4096),
            "Path": "\\\\?\\Volume{5a6e0000-0000-0000-0000-100000000000}\\",
            "UniqueId": "\\\\?\\Volume{5a6e0000-0000-0000-0000-100000000000}\\",
            "ObjectId": "{1}\\\\SIM\\volume-c",
        },
    )


@cmdlet("Get-Volume")
def get_volume(call: Call) -> None:
    host = call.host
    if call.has("DriveLetter"):
        for letter in call.texts("DriveLetter"):
            if letter.upper() == "C":
                call.write(volume_view(host))
            else:
                call.error(not_found("DriveLetter", letter))
        return
    for path in call.texts("FilePath"):
        if not normal(path).startswith("c:"):
            raise not_found("FilePath", path)
    call.write(volume_view(host))


@cmdlet("Get-Partition")
def get_partition(call: Call) -> None:
    need_administrator(call)
    numbers = call.texts("DiskNumber") or [d["Number"] for d in call.things("Disk")]
    if (not numbers or "0" in numbers) and call.text("DriveLetter", "C").upper() == "C":
        call.write(
            cim(
                "MSFT_Partition",
                {
                    "DiskNumber": UInt32(0),
                    "PartitionNumber": UInt32(1),
                    "DriveLetter": "C",
                    "Size": UInt64(call.host.disks.capacity),
                    "Offset": UInt64(1 << 20),
                    "Type": "Basic",
                    "IsBoot": True,
                    "IsSystem": True,
                    "DiskId": call.host.storage.disks[0].path,
                },
            )
        )


def _image_view(call: Call, path: str) -> Thing:
    host = call.host
    number = next((n for p, n in host.mounted.items() if host.files.same(p, path)), None)
    return cim(
        "MSFT_DiskImage",
        {
            "ImagePath": path,
            "Attached": number is not None,
            "DevicePath": None if number is None else f"\\\\.\\PhysicalDrive{number}",
            "Number": None if number is None else UInt32(number),
            "Size": UInt64(host.files.file(path).stat().st_size),
            "FileSize": UInt64(host.files.file(path).stat().st_size),
            "StorageType": UInt32(1 if path.lower().endswith(".iso") else 3),
            "BlockSize": UInt32(0),
            "LogicalSectorSize": UInt32(512),
        },
    )


@cmdlet("Get-DiskImage")
def get_image(call: Call) -> None:
    for path in call.texts("ImagePath"):
        if not call.host.files.file(path).is_file():
            raise file_error("file-not-found", path)
        call.write(_image_view(call, path))


@cmdlet("Get-InitiatorPort")
def initiator_ports(call: Call) -> None:
    storage = call.host.storage
    ports: list[Thing] = [
        cim(
            "MSFT_InitiatorPort",
            {
                "InstanceName": "ROOT\\ISCSIPRT\\0000_0",
                "NodeAddress": storage.initiator,
                "PortAddress": "ISCSI ANY PORT",
                "ConnectionType": "iSCSI",
                "OperationalStatus": UInt16(1),
                "ObjectId": "iscsi-0",
            },
        )
    ]
    ports.extend(
        cim(
            "MSFT_InitiatorPort",
            {
                "InstanceName": f"PCI\\FC_{index}",
                "NodeAddress": node,
                "PortAddress": port,
                "ConnectionType": "Fibre Channel",
                "OperationalStatus": UInt16(1),
                "ObjectId": f"fc-{index}",
            },
        )
        for index, (node, port) in enumerate(storage.hba_ports)
    )
    for each in ports:
        kind = str(each.properties["ConnectionType"]).replace(" ", "")
        if call.has("ConnectionType") and kind not in call.texts("ConnectionType"):
            continue
        if call.has("NodeAddress"):
            address = str(each.properties["NodeAddress"])
            if not any(like(address, text) for text in call.texts("NodeAddress")):
                continue
        call.write(each)
