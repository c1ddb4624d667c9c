"""Clauses of ``contract/lifecycle.py``: what is seen of an instance, its label and metadata."""

from __future__ import annotations

from hvdrivers.conformance.engine.assertions import STATE_NEEDS
from hvdrivers.conformance.engine.clauses import Case, check, clause
from hvdrivers.conformance.engine.trial import METADATA_KEY, Trial
from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability
from hvdrivers.models.state import InstanceState

LIFE_013 = clause(
    "LIFE-013",
    "get_instance() reads the hypervisor now: what another connection did is there at once",
    operation="get_instance",
)
LIFE_014 = clause(
    "LIFE-014",
    "list_instances() has exactly the instances that exist, each as get_instance() sums it up",
    operation="list_instances",
)
LIFE_015 = clause(
    "LIFE-015",
    "rename() changes the label of that instance and nothing else, and two may share a label",
    operation="rename",
)
LIFE_016 = clause(
    "LIFE-016",
    "set_metadata() replaces all metadata, and changes nothing else",
    operation="set_metadata",
)
LIFE_017 = clause(
    "LIFE-017", "name and metadata survive stops and starts", operation="set_metadata"
)


@check(LIFE_013)
def sees_what_another_did(trial: Trial) -> None:
    other = trial.connect()
    info = trial.spawn(start=False)
    trial.equal(trial.driver.get_instance(info.uuid), info, "the instance")
    name = f"{trial.journal.prefix}other"
    other.rename(info.uuid, name)
    trial.equal(trial.driver.get_instance(info.uuid).name, name, "name that another has given")
    other.set_metadata(info.uuid, {METADATA_KEY: "x"})
    found = trial.driver.get_instance(info.uuid).metadata
    trial.equal(dict(found), {METADATA_KEY: "x"}, "metadata that another has set")
    other.power_on(info.uuid)
    trial.equal(trial.state(info.uuid), InstanceState.RUNNING, "state that another has caused")
    other.destroy(info.uuid)
    with trial.raises(errors.InstanceNotFound):
        trial.driver.get_instance(info.uuid)
    listed = {each.uuid for each in trial.driver.list_instances()}
    trial.check(info.uuid not in listed, "the list has what another has destroyed")


@check(LIFE_014)
def has_all_and_no_more(trial: Trial) -> None:
    before = {each.uuid for each in trial.driver.list_instances()}
    states = [InstanceState.RUNNING, InstanceState.STOPPED]
    states += [state for state, needed in STATE_NEEDS.items() if trial.has(needed)]
    made = [trial.in_state(state) for state in states]
    gone = trial.in_state(InstanceState.STOPPED)
    trial.driver.destroy(gone)
    for who, driver in (("this", trial.driver), ("another", trial.other)):
        summaries = list(driver.list_instances())
        listed = sorted(each.uuid.hex for each in summaries)
        trial.equal(listed, sorted(each.hex for each in before.union(made)), f"{who} list")
        for each in summaries:
            if each.uuid in made:
                trial.equal(each, driver.get_instance(each.uuid).summary(), f"{who} list's line")


@check(
    LIFE_015,
    cases=[
        Case("stopped", (False,)),
        Case("running", (True,), needs=frozenset({Capability.HOT_RENAME})),
    ],
)
def changes_the_label_alone(trial: Trial, start: bool) -> None:
    info, beside = trial.spawn(start=start), trial.spawn(start=False)
    name = f"{trial.journal.prefix}renamed"
    trial.driver.rename(info.uuid, name)
    for driver in (trial.driver, trial.other):
        found = driver.get_instance(info.uuid)
        trial.equal(found, info.model_copy(update={"name": name}), "the renamed instance")
        listed = {each.uuid: each.name for each in driver.list_instances()}
        trial.equal(listed.get(info.uuid), name, "its name in the list")
    trial.driver.rename(beside.uuid, name)
    listed = {each.uuid: each.name for each in trial.other.list_instances()}
    names = (listed.get(info.uuid), listed.get(beside.uuid))
    trial.equal(names, (name, name), "names of two that share one")
    with trial.unchanged():
        trial.driver.rename(info.uuid, name)
    trial.driver.rename(beside.uuid, beside.name)
    trial.equal(trial.driver.get_instance(beside.uuid), beside, "the other under its first name")
    trial.equal(trial.driver.get_instance(info.uuid).name, name, "name of the one that kept it")


@check(LIFE_016, cases=[Case("stopped", (False,)), Case("running", (True,))])
def replaces_all(trial: Trial, start: bool) -> None:
    info = trial.spawn(start=start, metadata={"hvct.old": "1", "hvct.both": "1"})
    for metadata in ({"hvct.both": "2", "hvct.new": "x"}, {"hvct.both": ""}, {}, {"hvct.a": "b"}):
        trial.driver.set_metadata(info.uuid, metadata)
        with trial.unchanged():
            trial.driver.set_metadata(info.uuid, metadata)
        for driver in (trial.driver, trial.other):
            found = driver.get_instance(info.uuid)
            trial.equal(dict(found.metadata), metadata, "metadata after set_metadata()")
            rest = found.model_copy(update={"metadata": info.metadata})
            trial.equal(rest, info, "the instance but its metadata")


@check(LIFE_017)
def outlive_a_stop(trial: Trial) -> None:
    info = trial.spawn(start=False)
    name, metadata = f"{trial.journal.prefix}lasting", {"hvct.lasting": "1\n2"}
    trial.driver.rename(info.uuid, name)
    trial.driver.set_metadata(info.uuid, metadata)
    trial.driver.power_on(info.uuid)
    running = {"hvct.lasting": "while it runs"}
    found = trial.driver.get_instance(info.uuid)
    trial.equal((found.name, dict(found.metadata)), (name, metadata), "name and metadata, started")
    trial.driver.set_metadata(info.uuid, running)
    if trial.has(Capability.HOT_RENAME):
        name = f"{trial.journal.prefix}hot"
        trial.driver.rename(info.uuid, name)
    trial.driver.power_off(info.uuid)
    found = trial.other.get_instance(info.uuid)
    trial.equal((found.name, dict(found.metadata)), (name, running), "name and metadata, stopped")
