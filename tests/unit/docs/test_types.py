"""What the documentation shows passes ``mypy --strict`` as a user has it: without any plug-in."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from .blocks import blocks_of

pytest.importorskip("mypy")
ROOT = Path(__file__).parents[3]

PROGRAM = '''
"""Uses what a small orchestrator uses, in the ways that a newcomer writes it."""

from pathlib import Path
from uuid import UUID, uuid4

from hvdrivers import (
    BridgeVif,
    Checksum,
    CloudInit,
    ComputeDriver,
    Destination,
    DeviceEvent,
    FileImage,
    Flavor,
    GuestCredentials,
    HttpImage,
    HypervisorError,
    ImageFormat,
    InstanceSpec,
    LifecycleEvent,
    NumaNode,
    ResyncEvent,
    SeedDisc,
    VolumeAttachment,
    VolumeEncryption,
    VolumeSpec,
    connect,
)
from hvdrivers.fake import FakeHost, FaultRule


def spec(image: Path) -> InstanceSpec:
    return InstanceSpec(
        uuid=uuid4(),
        name="web-1",
        flavor=Flavor(vcpus=2, memory_mib=1024),
        image=FileImage(path=image),
        vifs=(BridgeVif(id="eth0", bridge="br0"),),
        cloud_init=CloudInit(
            hostname="web-1",
            ssh_keys=["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJx1 me"],
            admin_password="a long secret",
            user_data="#cloud-config",
            meta={"role": "web"},
        ),
    )


def listed(image: Path) -> InstanceSpec:
    """With lists, and a format as a word."""
    disk = VolumeSpec(size_gib=1, format="qcow2")
    print(disk.capacity_bytes)
    return InstanceSpec(
        name="web-2",
        flavor=Flavor(vcpus=2, memory_mib=1024),
        image=FileImage(path=image, format="qcow2"),
        vifs=[BridgeVif(id="eth0", bridge="br0")],
        volumes=[],
        disks=[],
        metadata={"role": "web"},
    )


def images() -> list[FileImage | HttpImage]:
    digest = "0" * 64
    return [
        FileImage(path="debian.qcow2"),
        FileImage(path=Path("debian.qcow2"), checksum=f"sha256:{digest}"),
        FileImage(
            path="x",
            format=ImageFormat.RAW,
            checksum=Checksum(algorithm="sha256", value=digest),
        ),
        HttpImage(url="https://images.example/debian.qcow2", checksum=f"sha256:{digest}"),
        HttpImage(
            url="https://images.example/debian.qcow2",
            checksum=f"sha512:{digest * 2}",
            headers={"Authorization": "Bearer secret"},
        ),
    ]


def follow(driver: ComputeDriver, uuid: UUID) -> None:
    with driver.watch() as events:
        event = events.next(timeout=0.1)
        if isinstance(event, LifecycleEvent):
            print(event.kind, event.state)
        elif isinstance(event, DeviceEvent):
            print(event.device)
        elif isinstance(event, ResyncEvent):
            print(event.states.get(uuid))


def attach(driver: ComputeDriver, uuid: UUID) -> None:
    volume = driver.create_volume(VolumeSpec(size_gib=1))
    try:
        driver.attach_volume(uuid, VolumeAttachment(volume=volume))
    except HypervisorError as error:
        print(error.hint, error.retryable)
    root = GuestCredentials(user="root", password="another secret")
    driver.guest_exec(uuid, ["/bin/true"], credentials=root)


def move(driver: ComputeDriver, uuid: UUID) -> None:
    """With plain text, bytes and lists, wherever the models take them."""
    nic = BridgeVif(id="eth0", bridge="br1")
    driver.reconnect(uuid, vifs=[nic], volumes=[])
    driver.prepare_move(uuid, Destination(host="lab2", user="me", password="third", vifs=[nic]))
    discs = [SeedDisc(content=bytes(512)), SeedDisc(path="seed.iso")]
    keys = VolumeEncryption(provider="luks", secret=b"fourth")
    print(discs, keys, NumaNode(cell=0, vcpus=[0, 1], memory_mib=64))


def faults() -> None:
    host = FakeHost()
    with host.connect() as driver, host.faults.add(FaultRule(operation="ping", when="before")):
        try:
            driver.ping()
        except HypervisorError as error:
            print(error.message)


def main() -> None:
    faults()
    with connect("fake") as driver:
        print(len(images()), driver.list_instances())
'''


def check(*files: Path) -> str:
    """What mypy has against them, with its strictest settings and without our configuration."""
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file", "", *map(str, files)],
        capture_output=True,
        text=True,
        check=False,
        cwd=files[0].parent,
    )
    errors = [line for line in done.stdout.splitlines() if ": error:" in line]
    assert done.returncode == 0 or errors, done.stderr
    # our own package is checked with its own settings
    return "\n".join(line for line in errors if "hvdrivers/" not in line.partition(":")[0])


def test_a_small_program_passes(tmp_path: Path) -> None:
    file = tmp_path / "program.py"
    file.write_text(PROGRAM)
    assert check(file) == ""


def test_what_may_be_passed_is_what_a_model_has() -> None:
    """A constructor that is written for mypy alone names every field of its model."""
    found = 0
    for file in sorted((ROOT / "hvdrivers" / "models").rglob("*.py")):
        for model in ast.walk(ast.parse(file.read_text())):
            if not isinstance(model, ast.ClassDef):
                continue
            fields = {
                each.target.id
                for each in model.body
                if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name)
            }
            for each in (each for part in model.body for each in ast.walk(part)):
                if isinstance(each, ast.FunctionDef) and each.name == "__init__":
                    found += 1
                    assert {word.arg for word in each.args.kwonlyargs} == fields, model.name
    assert found >= 10


def test_the_program_runs(tmp_path: Path) -> None:
    """What the types allow, the models take."""
    file = tmp_path / "program.py"
    file.write_text(f"{PROGRAM}\nmain()\nspec(Path('x.qcow2'))\nlisted(Path('x.qcow2'))\n")
    done = subprocess.run([sys.executable, str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_wrong_program_is_refused(tmp_path: Path) -> None:
    """The check above can fail."""
    file = tmp_path / "program.py"
    file.write_text("from hvdrivers import FileImage\nFileImage(path=1)\n")
    assert 'Argument "path" to "FileImage"' in check(file)


def test_the_documented_code_passes(tmp_path: Path) -> None:
    """The pages whose blocks, one after the other, are one program."""
    files = []
    for page in ("README.md", "docs/quick-start.md", "docs/index.md"):
        blocks = [each.code for each in blocks_of(ROOT / page) if each.language == "python"]
        assert blocks or page == "docs/index.md"
        file = tmp_path / f"{Path(page).stem.replace('-', '_').lower()}.py"
        file.write_text("\n".join(blocks))
        files.append(file)
    examples = sorted((ROOT / "examples").glob("*.py"))
    for each in examples:
        (tmp_path / each.name).write_text(each.read_text())
    assert check(*files, *(tmp_path / each.name for each in examples)) == ""
