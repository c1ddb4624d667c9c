"""Drivers from other packages: found, judged, refused with the reason, connected with."""

from __future__ import annotations

import inspect
import json
import logging
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import ClassVar

import pytest
from handmade import OUTOFTREE, LeastConfig, LeastDriver, a_spec
from pydantic import SecretStr

import hvdrivers
from hvdrivers import connect, list_plugins
from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability
from hvdrivers.models.config import DriverConfig
from hvdrivers.plugins import discovery, hosts
from hvdrivers.plugins.check import faults_of

_number = count()


class Site:
    """A folder of installed packages on the import path."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def install(
        self,
        name: str,
        source: str = "",
        *,
        drivers: dict[str, str] | None = None,
        schemes: dict[str, str] | None = None,
        extras: tuple[str, ...] = (),
    ) -> str:
        """Put a package there; returns the name of its only module. ``{module}`` in the entry
        points stands for that."""
        module = f"{name.replace('-', '_')}_{next(_number)}"
        (self.path / f"{module}.py").write_text(textwrap.dedent(source))
        info = self.path / f"{module}-1.0.dist-info"
        info.mkdir()
        extra = "".join(f"Provides-Extra: {each}\n" for each in extras)
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{extra}"
        )
        text = ""
        for group, points in ((discovery.DRIVERS, drivers), (discovery.SCHEMES, schemes)):
            text += f"[{group}]\n"
            for key, value in (points or {}).items():
                text += f"{key} = {value.format(module=module)}\n"
        (info / "entry_points.txt").write_text(text)
        return module


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    path = tmp_path / "site"
    path.mkdir()
    monkeypatch.syspath_prepend(str(path))
    return Site(path)


@pytest.fixture
def least(site: Site) -> Site:
    """A site that has the least driver."""
    value = "hv_least:LeastDriver"
    site.install("hv-least", drivers={"least": value}, schemes={"least": value})
    return site


def plugin(name: str) -> discovery.PluginInfo:
    (found,) = (each for each in list_plugins() if each.name == name)
    return found


# really installed -----------------------------------------------------------------------------

SCRIPT = """
import json, hvdrivers
found = {each.name: each.model_dump(mode="json") for each in hvdrivers.list_plugins()}
with hvdrivers.connect("least", host="one") as driver:
    label = driver.host_label
with hvdrivers.connect("least://two") as driver:
    print(json.dumps([found, label, driver.host_label]))
"""


def test_a_driver_from_another_package_is_an_equal(tmp_path: Path) -> None:
    source = tmp_path / "source"
    subprocess.run(["cp", "-r", str(OUTOFTREE), str(source)], check=True)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    pip += ["--no-build-isolation", "--disable-pip-version-check", "--no-cache-dir"]
    target = tmp_path / "target"
    subprocess.run([*pip, "--target", str(target), str(source)], check=True)
    environment = dict(os.environ, PYTHONPATH=str(target))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT],
        env=environment,
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
    )
    found, one, two = json.loads(done.stdout)
    assert (one, two) == ("one", "two")
    assert found["least"] == {
        "name": "least",
        "distribution": "hv-least",
        "version": "1.2.3",
        "module": "hv_least:LeastDriver",
        "schemes": ["least"],
        "usable": True,
        "reason": None,
        "hint": None,
        "capabilities": ["hot-rename", "image-host"],
    }
    assert {"fake", "libvirt"} <= set(found)
    assert found["libvirt"]["distribution"] == "hvdrivers"
    assert found["libvirt"]["schemes"] == ["qemu", "test"]


# broken ones ----------------------------------------------------------------------------------


def test_a_broken_driver_is_listed_with_its_error_and_breaks_nothing(least: Site) -> None:
    least.install("acme-hv", "import acme_sdk_7", drivers={"acme": "{module}:X"}, extras=("acme",))
    acme = plugin("acme")
    assert not acme.usable
    assert acme.reason is not None
    assert "No module named 'acme_sdk_7'" in acme.reason
    assert acme.hint == "pip install 'acme-hv[acme]'"
    assert plugin("least").usable
    with pytest.raises(errors.PluginError, match=r"acme-hv 1\.0 registers the driver 'acme'") as e:
        connect("acme")
    assert e.value.hint == "pip install 'acme-hv[acme]'"
    assert isinstance(e.value.__cause__, ModuleNotFoundError)


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("raise SystemExit(1)", "SystemExit"),
        ("import sys; sys.exit()", "SystemExit"),
        ("1 / 0", "ZeroDivisionError"),
        ("def (", "SyntaxError"),
        ("", "AttributeError"),
    ],
)
def test_whatever_happens_at_import_is_told(site: Site, source: str, error: str) -> None:
    site.install("acme-hv", source, drivers={"acme": "{module}:X"}, extras=("acme",))
    acme = plugin("acme")
    assert error in (acme.reason or "")
    assert acme.hint == "reinstall it, or report it to its author"


def test_a_package_that_misses_a_part_of_itself_is_not_helped_by_an_extra(site: Site) -> None:
    site.install("acme-hv", "", drivers={"acme": "{module}.driver:X"}, extras=("acme",))
    assert plugin("acme").hint == "reinstall it, or report it to its author"


def test_two_packages_with_one_name_are_refused_with_both_names(least: Site) -> None:
    least.install("other-hv", drivers={"least": "hv_least:LeastDriver"})
    found = [each for each in list_plugins() if each.name == "least"]
    assert [each.distribution for each in found] == ["hv-least", "other-hv"] or [
        each.distribution for each in found
    ] == ["other-hv", "hv-least"]
    for each in found:
        assert not each.usable
        assert each.reason == "the driver 'least' is registered by hv-least 1.0 and other-hv 1.0"
    with pytest.raises(errors.PluginError, match=r"hv-least 1\.0 and other-hv 1\.0"):
        connect("least")


def test_two_packages_with_one_scheme_are_refused_and_the_name_still_works(least: Site) -> None:
    least.install("other-hv", schemes={"least": "hv_least:LeastDriver"})
    with pytest.raises(errors.PluginError, match=r"URL scheme 'least' is registered by hv-least"):
        connect("least://here")
    with connect("least"):
        pass


def test_a_scheme_that_leads_nowhere_is_told(site: Site) -> None:
    site.install("acme-hv", schemes={"acme": "hv_least:LeastDriver"})
    with pytest.raises(errors.PluginError, match="registers as a driver"):
        connect("acme://x")


def test_a_driver_with_wrong_signatures_is_refused_with_each(site: Site) -> None:
    source = """
        from hv_least import LeastDriver

        class Wrong(LeastDriver):
            driver_name = "wrong"

            def power_on(self, instance_id, *, timeout=None):
                pass

            async def ping(self, *, timeout=None):
                pass
    """
    site.install("wrong-hv", source, drivers={"wrong": "{module}:Wrong"})
    with pytest.raises(errors.PluginError) as caught:
        connect("wrong")
    message = caught.value.message
    assert message.startswith("wrong-hv 1.0 registers the driver 'wrong', which does not keep")
    assert "power_on(self, instance_id, *, timeout=None): the contract's argument 'uuid'" in message
    assert "ping() is asynchronous" in message
    assert plugin("wrong").reason == message


# what check.py looks at -----------------------------------------------------------------------


def twisted(**members: object) -> type:
    return type("Twisted", (LeastDriver,), members)


def test_the_least_driver_has_no_fault() -> None:
    assert faults_of(LeastDriver, "least") == []


@pytest.mark.parametrize("name", ["fake", "libvirt", "vmware", "hyperv"])
def test_a_connect_makes_no_signatures(name: str, monkeypatch) -> None:
    """They are slow, and only a driver that differs from the contract needs them."""
    cls = discovery.load_driver(name)
    monkeypatch.setattr(inspect, "signature", None)
    assert faults_of(cls, name) == []


def _says(signature: str) -> Callable[..., None]:
    def ping(self: object, *, timeout: float | None = None) -> None: ...

    ping.__signature__ = inspect.signature(eval(f"lambda {signature}: None"))  # type: ignore[attr-defined]
    return ping


def _wraps(method: object) -> Callable[..., None]:
    def ping(self: object, *, timeout: float | None = None) -> None: ...

    ping.__wrapped__ = method  # type: ignore[attr-defined]
    return ping


@pytest.mark.parametrize(
    ("cls", "fault"),
    [
        (7, "7 is not a class"),
        (dict, "dict is not a subclass of hvdrivers.Driver"),
        (type("Half", (hvdrivers.Driver,), {}), "Half does not implement attach_volume, close,"),
        (twisted(driver_name="other"), "driver_name is 'other' and not 'least'"),
        (twisted(config_model=dict), "config_model is not a subclass of DriverConfig"),
        (twisted(connect=lambda config: None), "connect() is not a class method"),
        (twisted(ping=staticmethod(lambda *, timeout=None: None)), "ping is not a plain method"),
        (twisted(ping=lambda self: None), "argument 'timeout' is missing"),
        (twisted(ping=lambda self, timeout, /: None), "'timeout' cannot be given by name"),
        (twisted(ping=lambda self, *, timeout: None), "'timeout' has a default in the contract"),
        (twisted(ping=lambda self, *, timeout=9: None), "default of 'timeout' is None"),
        (twisted(ping=lambda self, *timeout: None), "'timeout' cannot be given by name"),
        (twisted(ping=_says("self, *, timeout=9")), "default of 'timeout' is None"),
        (twisted(ping=_wraps(lambda self: None)), "argument 'timeout' is missing"),
        (twisted(ping=_wraps(_says("self"))), "argument 'timeout' is missing"),
        (
            twisted(ping=lambda self, tenant, *, timeout=None: None),
            "no argument 'tenant', and it has no default",
        ),
        (
            twisted(get_instance=lambda self, *, uuid, timeout=None: None),
            "'uuid' cannot be given by position",
        ),
        (
            twisted(plug_vif=lambda self, vif, uuid, *, timeout=None: None),
            "the contract's order is uuid, vif",
        ),
        (
            twisted(pause=lambda self, uuid, *, timeout=None: None),
            "pause() is defined without inheriting its interface, Pause",
        ),
        (
            twisted(odd=hvdrivers.provides(Capability.PAUSE)(lambda self: None)),
            "@provides names pause, which needs the interface Pause",
        ),
        (
            twisted(odd=hvdrivers.provides(Capability.CONSOLE_VNC)(lambda self: None)),
            "@provides names console-vnc, which needs the interface InteractiveConsole",
        ),
        (
            twisted(odd=hvdrivers.provides("teleport")(lambda self: None)),
            "@provides names 'teleport', which is no Capability",
        ),
    ],
)
def test_a_fault_is_named(cls: object, fault: str) -> None:
    assert fault in "; ".join(faults_of(cls, "least"))


def test_marks_that_mean_nothing_are_named() -> None:
    from hvdrivers.contract.operation import Scope, operation

    def marked(function):
        function.__override__ = True  # what typing.override does
        return function

    class Odd(LeastDriver):
        @operation(scope=Scope.HOST)
        def teleport(self, *, timeout=None):
            pass

        @marked
        def pnig(self, *, timeout=None):
            pass

        @marked
        def ping(self, *, timeout=None):
            pass

    faults = "; ".join(faults_of(Odd, "least"))
    assert "@operation marks teleport()" in faults
    assert "@override marks pnig(), which overrides nothing" in faults
    assert "ping()," not in faults.replace("pnig(),", "")


def test_a_driver_may_take_more_than_the_contract_gives() -> None:
    more = twisted(ping=lambda self, *, timeout=None, loudly=False: None)
    anything = twisted(ping=lambda self, **arguments: None)
    assert faults_of(more, "least") == faults_of(anything, "least") == []


# connect --------------------------------------------------------------------------------------


def test_by_name_with_options_and_by_url(least: Site) -> None:
    with connect("least") as driver:
        assert (driver.driver_name, driver.host_label) == ("least", "here")
        assert isinstance(driver, hvdrivers.ComputeDriver)
    with connect("least", host="there", operation_timeout_scale=2.0) as driver:
        assert driver.host_label == "there"
    with connect("LEAST+ssh://elsewhere") as driver:
        assert driver.host_label == "elsewhere"
        driver.spawn(spec := a_spec())
        with pytest.raises(errors.InstanceExists):
            driver.spawn(spec)


def test_what_does_not_exist_is_told_with_what_does(least: Site) -> None:
    with pytest.raises(errors.InvalidRequest, match="'leest' is neither a driver nor a host") as e:
        connect("leest")
    assert e.value.hint is not None
    drivers = ", ".join(each.name for each in list_plugins())
    assert e.value.hint.startswith(f"did you mean 'least'? drivers: {drivers}; hosts: ")
    with pytest.raises(errors.InvalidRequest, match="URL scheme 'qemv'") as e:
        connect("qemv://user:hunter2@host")
    assert e.value.hint.startswith("did you mean 'qemu'? there are: ")
    assert "fake, " in e.value.hint
    assert {"least", "qemu", "test"} <= set(e.value.hint.partition(": ")[2].split(", "))
    assert "hunter2" not in f"{e.value} {e.value.hint}"


def test_wrong_options_are_named_and_their_values_are_not(least: Site) -> None:
    with pytest.raises(errors.InvalidRequest, match="least: unknown option 'hots'") as e:
        connect("least", hots="hunter2")
    assert e.value.hint == ("did you mean 'host'? there are: host, operation_timeout_scale, token")
    with pytest.raises(errors.InvalidRequest, match="least: operation_timeout_scale: ") as e:
        connect("least", operation_timeout_scale=-1, token="hunter2")
    assert "hunter2" not in str(e.value)
    with pytest.raises(errors.InvalidRequest, match="least URL: unknown option 'x'"):
        connect("least://h", x=1)


class Failing(LeastDriver):
    """Registered below as a plug-in; its twist is set by each test."""

    driver_name = "failing"
    twist: ClassVar[object] = None
    closed: ClassVar[list[bool]] = []

    @classmethod
    def connect(cls, config: DriverConfig):
        assert isinstance(config, LeastConfig)
        if callable(cls.twist):
            return cls.twist(config)
        return super().connect(config)

    def narrowed(self):
        if isinstance(self.twist, Exception):
            raise self.twist
        return {}

    def close(self, *, timeout=None):
        self.closed.append(True)


@pytest.fixture
def failing(site: Site, monkeypatch: pytest.MonkeyPatch) -> type[Failing]:
    module = site.install("failing-hv", drivers={"failing": "{module}:Failing"})
    (site.path / f"{module}.py").write_text(f"from {__name__} import Failing\n")
    monkeypatch.setattr(Failing, "closed", [])
    monkeypatch.setattr(Failing, "twist", None)
    return Failing


def test_a_failure_to_connect_names_the_operation_and_no_secret(failing, caplog) -> None:
    def refuse(config):
        raise errors.AuthenticationFailed(f"{config.token.get_secret_value()} refused", host="h")

    failing.twist = staticmethod(refuse)
    with caplog.at_level(logging.DEBUG), pytest.raises(errors.AuthenticationFailed) as caught:
        connect("failing", token="hunter22")
    assert (caught.value.operation, caught.value.host) == ("connect", "h")
    assert "hunter22" not in str(caught.value) + caplog.text
    assert "outcome=AuthenticationFailed" in caplog.text


@pytest.mark.parametrize("twist", [lambda config: 1 / 0, lambda config: None])
def test_a_driver_that_breaks_while_connecting_breaks_the_contract(failing, twist) -> None:
    failing.twist = staticmethod(twist)
    with pytest.raises(errors.ContractViolation, match="connect"):
        connect("failing")


def test_a_connection_that_cannot_be_used_is_closed(failing) -> None:
    failing.twist = errors.ConnectionFailed("gone again")
    with pytest.raises(errors.ConnectionFailed, match="gone again"):
        connect("failing")
    assert failing.closed == [True]


def test_the_password_of_the_connection_stays_hidden_afterwards(failing, monkeypatch) -> None:
    def ping(self, *, timeout=None):
        raise errors.ConnectionFailed("login with hunter22 refused")

    monkeypatch.setattr(failing, "ping", ping)
    driver = connect("failing", token="hunter22")
    with pytest.raises(errors.ConnectionFailed) as caught:
        driver.ping()
    driver.close()
    assert "hunter22" not in str(caught.value)


# the file of hosts ----------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, least: Site) -> Path:
    """The default file of hosts."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    path = hosts.default_hosts_file()
    assert path == tmp_path / "config" / "hvdrivers" / "hosts.toml"
    path.parent.mkdir(parents=True)
    return path


def write(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(textwrap.dedent(text))
    path.chmod(mode)
    return path


def test_a_host_of_the_file(file: Path, tmp_path: Path) -> None:
    write(file, '[hosts.lab1]\ndriver = "least"\nhost = "one"\n')
    assert hosts.list_hosts() == {"lab1": "least"}
    with connect("lab1") as driver:
        assert driver.host_label == "one"
    with connect("lab1", host="two") as driver:
        assert driver.host_label == "two"
    other = write(tmp_path / "other.toml", '[hosts.lab9]\ndriver = "least"\nhost = "nine"\n')
    with connect("lab9", config_file=other) as driver:
        assert driver.host_label == "nine"
    with pytest.raises(errors.InvalidRequest, match="no host 'lab1'") as caught:
        connect("lab1", config_file=str(other))
    assert caught.value.hint == "did you mean 'lab9'? there are: lab9"
    with pytest.raises(errors.InvalidRequest, match="neither a driver nor a host") as caught:
        connect("lab2")
    assert "did you mean 'lab1'?" in (caught.value.hint or "")
    assert "://" not in (caught.value.hint or "")
    with pytest.raises(errors.InvalidRequest, match="neither a driver nor a host") as caught:
        connect("qemu:/system")
    assert (caught.value.hint or "").startswith("a URL has :// behind its scheme; ")


def test_without_a_home_variable_it_is_under_dot_config(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CONFIG_HOME")
    assert hosts.default_hosts_file() == Path.home() / ".config" / "hvdrivers" / "hosts.toml"


def test_a_drivers_name_means_the_driver_whatever_the_file_says(file: Path) -> None:
    write(file, "this is no TOML")
    with connect("least") as driver:
        assert driver.host_label == "here"
    write(file, '[hosts.least]\ndriver = "least"\n')
    with pytest.raises(errors.InvalidRequest, match=r"\[hosts.least\] has the name of a driver"):
        connect("lab1")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x", "hosts.toml: "),
        ("x = 1", "unknown key 'x'"),
        ("hosts = 1", "must be tables"),
        ("[hosts]\nlab1 = 1", r"\[hosts.lab1\] must be a table"),
        ("[hosts.lab1]", "must name its driver"),
        ("[hosts.lab1]\ndriver = 1", "must name its driver"),
        ('[hosts.lab1]\ndriver = "lesat"', "registers the driver 'lesat'"),
        (
            '[hosts.lab1]\ndriver = "least"\nurl = "x"',
            r"toml: \[hosts.lab1\]: unknown .*'url'",
        ),
        ('[hosts.lab1]\ndriver = "least"\nhost = 1', r"hosts.toml: \[hosts.lab1\]: host: "),
        ('[hosts.lab1]\ndriver = "least"\ntoken_file = 1', "token_file: must be a path"),
        ('[hosts.lab1]\ndriver = "least"\ntoken_file = "x"', "token_file: there is no file"),
        ('[hosts.lab1]\ndriver = "least"\ntoken = "x"\ntoken_file = "x"', "both 'token' and"),
    ],
)
def test_what_is_wrong_in_the_file_is_named(file: Path, text: str, message: str) -> None:
    write(file, text)
    with pytest.raises(errors.InvalidRequest, match=message):
        connect("lab1")


def test_a_file_that_is_named_must_be_there_and_readable(tmp_path: Path) -> None:
    with pytest.raises(errors.InvalidRequest, match="there is no such file"):
        connect("lab1", config_file=tmp_path / "none.toml")
    with pytest.raises(errors.InvalidRequest, match="directory"):
        connect("lab1", config_file=tmp_path)
    (tmp_path / "latin.toml").write_bytes(b"\xff")
    with pytest.raises(errors.InvalidRequest, match="not UTF-8"):
        connect("lab1", config_file=tmp_path / "latin.toml")


def _token(file: Path) -> str | None:
    host = hosts.read_hosts(file)["lab1"]
    options, from_files = hosts.options_of(host, LeastConfig)
    hosts.refuse_exposed(host, LeastConfig, from_files)
    token = LeastConfig.model_validate(options).token
    return token.get_secret_value() if token else None


def test_a_secret_may_have_a_file_of_its_own(file: Path) -> None:
    text = '[hosts.lab1]\ndriver = "least"\ntoken_file = "lab1.token"\n'
    write(file, text, mode=0o644)
    token = write(file.parent / "lab1.token", "hunter 22 \n")
    assert _token(file) == "hunter 22 "
    with connect("lab1"):
        pass
    for mode in (0o604, 0o644):
        token.chmod(mode)
        with pytest.raises(errors.InvalidRequest, match="everybody") as caught:
            connect("lab1")
        assert "hunter" not in str(caught.value)
        assert caught.value.hint == f"chmod o= {token}"


def test_a_secret_in_the_file_itself_must_be_kept_from_others(file: Path) -> None:
    write(file, '[hosts.lab1]\ndriver = "least"\ntoken = "hunter22"\n')
    assert _token(file) == "hunter22"
    file.chmod(0o644)
    with pytest.raises(errors.InvalidRequest, match="holds the secret 'token'") as caught:
        connect("lab1")
    assert "hunter22" not in str(caught.value)


def test_a_models_own_file_key_is_left_alone(least: Site) -> None:
    class Config(DriverConfig):
        token: SecretStr | None = None
        token_file: str = ""
        name_file: str = ""
        name: str = ""

    options: dict[str, object] = {"token_file": "a", "name_file": "b"}
    host = hosts.Host("lab1", "least", options, Path("hosts.toml"), private=True)
    assert hosts.options_of(host, Config) == (options, set())


def test_what_is_installed_is_looked_at_once(file: Path, monkeypatch) -> None:
    """Each look reads the metadata of every installed package."""
    looks: list[object] = []
    real = discovery.entry_points

    def entry_points(**chosen: str) -> object:
        looks.append(chosen)
        return real(**chosen)

    monkeypatch.setattr(discovery, "entry_points", entry_points)
    write(
        file,
        "".join(f'[hosts.lab{each}]\ndriver = "least"\nhost = "one"\n' for each in range(50)),
    )
    for target in ("least://one", "least", "lab7"):
        looks.clear()
        connect(target).close()
        assert len(looks) == 1, target
    looks.clear()
    list_plugins()
    assert len(looks) == 1
    looks.clear()
    hosts.list_hosts()
    assert len(looks) == 1


# stevedore's cache ----------------------------------------------------------------------------


def test_an_outdated_cache_of_entry_points_does_no_harm(site: Site, monkeypatch) -> None:
    import stevedore

    def outdated(self, *arguments, **_):
        from stevedore.exception import NoMatches

        raise NoMatches("not in the cache")

    monkeypatch.setattr(stevedore.DriverManager, "__init__", outdated)
    site.install("hv-least", drivers={"least": "hv_least:LeastDriver"})
    with connect("least") as driver:
        assert driver.driver_name == "least"


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX'")
@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666, 0o664])
def test_a_hosts_file_that_others_can_write(file: Path, mode: int) -> None:
    """A URI in it can run programs as its reader: qemu+ext://…?command=…"""
    write(file, '[hosts.lab1]\ndriver = "least"\nhost = "one"\n')
    file.chmod(mode)
    with pytest.raises(errors.InvalidRequest, match="others can write it") as caught:
        hosts.read_hosts()
    assert str(file) in (caught.value.hint or "")
    file.chmod(0o644)
    assert hosts.read_hosts()


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX'")
def test_a_hosts_file_that_others_can_replace(file: Path) -> None:
    write(file, '[hosts.lab1]\ndriver = "least"\nhost = "one"\n')
    for folder in (file.parent, file.parent.parent):
        mode = folder.stat().st_mode
        folder.chmod(0o777)
        with pytest.raises(errors.InvalidRequest, match="others can write") as caught:
            hosts.read_hosts()
        assert str(folder) in (caught.value.hint or "")
        folder.chmod(0o1777)  # as /tmp: nobody else can replace it there
        assert hosts.read_hosts()
        folder.chmod(mode)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="needs root, to give it away")
def test_a_hosts_file_of_another_user(file: Path) -> None:
    write(file, '[hosts.lab1]\ndriver = "least"\nhost = "one"\n')
    os.chown(file, 12345, 12345)
    with pytest.raises(errors.InvalidRequest, match="another user"):
        hosts.read_hosts()


@pytest.mark.parametrize(
    "text",
    [
        "a = " + "[" * 5000 + "]" * 5000,
        "a = " + "9" * 5000,
        "[hosts." + ".".join("a" * 3000) + "]",
        "a = 1" + "#" * (2 << 20),
        "a" * 100_000,
    ],
)
def test_hosts_files_that_are_absurd(file: Path, text: str) -> None:
    write(file, text)
    with pytest.raises(errors.InvalidRequest):
        hosts.read_hosts()


@pytest.mark.parametrize("path", ["a\0b", "\ud800", "/dev/zero", "/", "x" * 5000])
def test_paths_of_hosts_files_that_are_none(path: str) -> None:
    with pytest.raises(errors.InvalidRequest):
        hosts.read_hosts(path)


def test_a_fifo_is_no_hosts_file(tmp_path: Path) -> None:
    """Opening it would wait for a writer."""
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(errors.InvalidRequest):
        hosts.read_hosts(tmp_path / "fifo")


@pytest.mark.parametrize("path", ["~no-such-user-x/a", "a\0b", "\ud800"])
def test_secret_files_that_are_none(file: Path, path: str) -> None:
    text = '[hosts.lab1]\ndriver = "least"\ntoken_file = "x"\n'
    host = hosts.Host("lab1", "least", {"token_file": path}, file, private=True)
    write(file, text)
    with pytest.raises(errors.InvalidRequest):
        hosts.options_of(host, LeastConfig)
