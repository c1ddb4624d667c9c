"""A machine that asks a question when it is switched on: the server's task waits for the answer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any
from uuid import UUID

import pytest
from pyVmomi import vim

from hvdrivers.contract import errors
from hvdrivers.driverkit import cut_after
from hvdrivers.models.image import ImageRef
from hvdrivers.models.state import InstanceState
from hvdrivers.vmware.conformance.raw_server import RawServer
from hvdrivers.vmware.driver import VmwareDriver
from tests.integration.vmware.conftest import SpecFactory
from tests.peers.vcsim import VcsimPeer

TEXT = "msg.hbacommon.outofspace: There is no more space for virtual disk root.vmdk."


@pytest.fixture
def server(driver: VmwareDriver) -> Iterator[RawServer]:
    made = RawServer(driver.config)
    yield made
    made.drop()


def will_ask(server: RawServer, uuid: UUID) -> None:
    """Let the next start of a machine wait with a question."""
    value = vim.option.OptionValue(key="hvct.question", value=TEXT)
    config = vim.vm.ConfigSpec(extraConfig=[value])
    server.wait(server.machine(uuid).ReconfigVM_Task(config))


@pytest.mark.parametrize("lost", [False, True])
def test_start_that_asks_is_ended_and_says_what_was_asked(
    driver: VmwareDriver,
    server: RawServer,
    spec: SpecFactory,
    monkeypatch: pytest.MonkeyPatch,
    *,
    lost: bool,
) -> None:
    """Without an answer it would last until the deadline, whose error would not say why."""
    uuid = driver.spawn(spec()).uuid
    will_ask(server, uuid)
    answer = vim.VirtualMachine.AnswerVM
    answers = []

    def answered(obj: Any, *args: str) -> None:
        answers.append(args)
        answer(obj, *args)
        if lost and len(answers) == 1:
            raise errors.OutcomeUnknown("the reply was lost")

    monkeypatch.setattr(vim.VirtualMachine, "AnswerVM", answered)
    with pytest.raises(errors.InvalidState, match="no more space") as raised:
        driver.power_on(uuid)
    assert raised.value.vendor_code == "QuestionPending"
    assert answers == [("7", "1")] * (1 + lost)
    assert driver.get_instance(uuid).state is InstanceState.STOPPED
    driver.power_on(uuid)
    assert driver.get_instance(uuid).state is InstanceState.RUNNING
    driver.destroy(uuid)


@pytest.mark.parametrize("lost", [False, True])
def test_clone_that_asks_is_ended_and_says_what_was_asked(
    driver: VmwareDriver, peer: VcsimPeer, spec: SpecFactory, *, lost: bool
) -> None:
    """On vCenter the start is a part of the clone, and nobody knows the machine before it."""
    driver.destroy(driver.spawn(spec()).uuid)  # the image and its template are there now
    wanted = spec(start=True)
    peer.ask("/question", "POST", text=TEXT)
    call = "CloneVM_Task" if driver.places.get().is_vcenter else "PowerOnVM_Task"
    kind = errors.OutcomeUnknown if lost else errors.InvalidState
    cut = driver.session.seam.cut(cut_after, name=call) if lost else nullcontext()
    with cut, pytest.raises(kind, match=None if lost else "no more space") as raised:
        driver.spawn(wanted)
    if not lost:
        assert raised.value.vendor_code == "QuestionPending"
    driver.destroy(wanted.uuid)
    driver.spawn(wanted)
    assert driver.get_instance(wanted.uuid).state is InstanceState.RUNNING
    driver.destroy(wanted.uuid)


def test_start_that_asks_and_whose_reply_is_lost_ends_too(
    driver: VmwareDriver, server: RawServer, spec: SpecFactory
) -> None:
    uuid = driver.spawn(spec()).uuid
    will_ask(server, uuid)
    with (
        driver.session.seam.cut(cut_after, name="PowerOnVM_Task"),
        pytest.raises(errors.OutcomeUnknown),
    ):
        driver.power_on(uuid)
    question = "runtime.question"
    assert question not in server.of(server.machine(uuid), question)
    driver.destroy(uuid)


def test_rebuild_whose_start_asks_comes_to_its_end_when_it_is_repeated(
    driver: VmwareDriver, server: RawServer, spec: SpecFactory, image: ImageRef
) -> None:
    uuid = driver.spawn(spec(start=True)).uuid
    will_ask(server, uuid)
    with pytest.raises(errors.InvalidState, match="no more space"):
        driver.rebuild(uuid, image)
    driver.rebuild(uuid, image)
    assert driver.get_instance(uuid).state is InstanceState.RUNNING
    driver.destroy(uuid)


def test_rescue_whose_start_asks_leaves_the_machine_as_it_was(
    driver: VmwareDriver, server: RawServer, spec: SpecFactory, image: ImageRef
) -> None:
    uuid = driver.spawn(spec(start=True)).uuid
    will_ask(server, uuid)
    with pytest.raises(errors.InvalidState, match="no more space"):
        driver.rescue(uuid, image)
    assert driver.get_instance(uuid).state is InstanceState.RUNNING
    driver.destroy(uuid)
