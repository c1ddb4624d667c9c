"""Writes the PowerShell modules that a client of the simulated host imports.

Each documented cmdlet becomes a function with the documented parameter sets, so that PowerShell's
own binder refuses a wrong call. A function of module Hyper-V has the name of the .NET class of the
real cmdlet, and the cmdlet's name is an alias of it: then ``FullyQualifiedErrorId`` ends exactly as
on Windows (``ObjectNotFound,Microsoft.HyperV.PowerShell.Commands.GetVM``).

The functions lie beside their module, one a line, and so do the enumerations of their parameters.
PowerShell parses a function when it is called first: all of them together take it longer than to
start.
"""

from importlib import resources
from pathlib import Path

from hvdrivers.hyperv.simulator.modules import overrides
from hvdrivers.hyperv.simulator.modules.documented import Documented, documented

_NATIVE = {
    "String": "string",
    "Int16": "int16",
    "Int32": "int",
    "Int64": "long",
    "UInt16": "uint16",
    "UInt32": "uint32",
    "UInt64": "uint64",
    "Boolean": "bool",
    "Byte": "byte",
    "Char": "char",
    "Guid": "guid",
    "TimeSpan": "timespan",
    "DateTime": "datetime",
    "Version": "version",
    "Hashtable": "hashtable",
    "PSCredential": "pscredential",
    "PSObject": "psobject",
    "switch": "switch",
}


HANDMADE: dict[str, list[str]] = {
    "CimCmdlets": ["Get-CimInstance", "Get-CimAssociatedInstance", "Invoke-CimMethod"],
    "Microsoft.PowerShell.Diagnostics": ["Get-WinEvent"],
    "MPIO": ["Get-MSDSMAutomaticClaimSettings"],
}
"""Modules that are written by hand, and their cmdlets."""


def write_modules(folder: Path) -> None:
    """Write every module below ``folder``, which becomes ``PSModulePath``."""
    _write(folder, "SimulatedHost", _own("runtime.psm1"))
    by_module: dict[str, list[Documented]] = {}
    for cmdlet in documented().values():
        by_module.setdefault(cmdlet.module, []).append(cmdlet)
    for module, cmdlets in by_module.items():
        _write(folder, module, _module_text(module))
        _write_cmdlets(folder / module, cmdlets)
    for module in HANDMADE:
        _write(folder, module, _PROLOGUE + _own(f"{module}.psm1"))


def _own(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text("utf-8")


def _write(folder: Path, module: str, text: str) -> None:
    home = folder / module
    home.mkdir(parents=True, exist_ok=True)
    (home / f"{module}.psm1").write_text(text, "utf-8")
    documented_here = (name for name, each in documented().items() if each.module == module)
    names = ", ".join(f"'{name}'" for name in HANDMADE.get(module) or sorted(documented_here))
    if module == "Hyper-V":
        # they hide the engine's own, which nobody could load a module over
        names += ", 'Invoke-Command', 'Remove-Item', 'Test-Path'"
    if module == "SimulatedHost":
        names = "'Add-SimulatedDrive', 'Get-SimulatedFunction', 'Invoke-SimulatedCmdlet'"
    by_alias = module == "Hyper-V" or module in HANDMADE
    functions = "'*'" if by_alias else f"@({names})"
    aliases = f"@({names})" if by_alias else "@()"
    version = "2.0.0.0"
    (home / f"{module}.psd1").write_text(
        f"@{{\n    RootModule = '{module}.psm1'\n    ModuleVersion = '{version}'\n"
        f"    FunctionsToExport = {functions}\n    CmdletsToExport = @()\n"
        f"    AliasesToExport = {aliases}\n    VariablesToExport = @()\n}}\n",
        "utf-8",
    )


_PROLOGUE = (
    "Import-Module -DisableNameChecking "
    "(Join-Path $PSScriptRoot '../SimulatedHost/SimulatedHost.psm1')\n"
)


_FUNCTIONS = """\
$session = $ExecutionContext.SessionState
$items = $session.InvokeProvider.Item
foreach ($each in Get-SimulatedFunction $PSScriptRoot) {
    $block = $session.Module.NewBoundScriptBlock($each.Block)
    $null = $items.Set("function:script:$($each.Name)", $block)
    if ($each.Alias -cne $each.Name) { $null = $items.Set("alias:$($each.Alias)", $each.Name) }
}
"""


def _module_text(module: str) -> str:
    parts = [_PROLOGUE, _FUNCTIONS]
    if module == "Hyper-V":
        parts.append("Add-SimulatedDrive\n")
        parts.append(_own("types.ps1"))
        parts.append(_own("direct.ps1"))
        parts.append(_own("removal.ps1"))
        parts.append(_own("shares.ps1"))
    return "".join(parts)


def _write_cmdlets(home: Path, cmdlets: list[Documented]) -> None:
    used = {kind.removesuffix("[]") for cmdlet in cmdlets for kind in cmdlet.types.values()}
    enums = [
        f"{overrides.full_type(name)}\t{'; '.join(values)}\n"
        for name, values in overrides.ENUMS.items()
        if name in used
    ]
    functions = [f"{function_name(each)}\t{each.name}\t{_function(each)}\n" for each in cmdlets]
    (home / "enums").write_text("".join(enums), "utf-8")
    (home / "functions").write_text("".join(functions), "utf-8")


def function_name(cmdlet: Documented) -> str:
    """The name of the function: that of the cmdlet's .NET class in module Hyper-V."""
    if cmdlet.module != "Hyper-V":
        return cmdlet.name
    return overrides.CLASSES.get(
        cmdlet.name, "Microsoft.HyperV.PowerShell.Commands." + cmdlet.name.replace("-", "")
    )


def _function(cmdlet: Documented) -> str:
    impact = overrides.IMPACT.get(cmdlet.name, "Medium") if cmdlet.confirms else ""
    binding: list[str] = []
    default = overrides.DEFAULT_SETS.get(cmdlet.name, cmdlet.default)
    if default:
        binding.append(f"DefaultParameterSetName='{default}'")
    if impact:
        binding.append(f"SupportsShouldProcess,ConfirmImpact='{impact}'")
    parameters = ",".join(_parameter(cmdlet, parameter) for parameter in cmdlet.types)
    return (
        f"[CmdletBinding({','.join(binding)})]param({parameters})"
        f"process{{Invoke-SimulatedCmdlet $PSCmdlet '{cmdlet.name}' "
        f"$PSBoundParameters '{impact}'}}"
    )


def _parameter(cmdlet: Documented, name: str) -> str:
    kind = cmdlet.types[name]
    attributes: list[str] = []
    holders = {key: b for key, bound in cmdlet.sets.items() for b in bound if b.name == name}
    piped = _piped(cmdlet, name, kind)
    shapes = {(b.mandatory, b.position) for b in holders.values()}
    everywhere = len(holders) == len(cmdlet.sets) and len(shapes) == 1
    for key, bound in holders.items():
        arguments: list[str] = []
        if not everywhere:
            arguments.append(f"ParameterSetName='{key}'")
        if overrides.mandatory(cmdlet.name, key, name, bound.mandatory):
            arguments.append("Mandatory")
        if bound.position is not None:
            arguments.append(f"Position={bound.position}")
        arguments.extend(piped)
        if arguments:
            attributes.append(f"[Parameter({','.join(arguments)})]")
        if everywhere:
            break
    aliases = overrides.PARAMETER_ALIASES.get((cmdlet.name, name)) or overrides.ALIASES.get(
        name, ()
    )
    aliases = tuple(alias for alias in aliases if alias not in cmdlet.types)
    if aliases:
        attributes.append("[Alias(" + ",".join(f"'{alias}'" for alias in aliases) + ")]")
    attributes.append(_type(cmdlet, name, kind))
    return "".join(attributes) + "$" + name


def _piped(cmdlet: Documented, name: str, kind: str) -> list[str]:
    """By value for machines and devices, also by name where the documentation of all says so."""
    base = kind.removesuffix("[]")
    if (
        base not in _NATIVE
        and base not in overrides.ENUMS
        and base not in ("CimSession", "VMComponentObject")
    ):
        return ["ValueFromPipeline"]
    if (cmdlet.name, name) in overrides.PIPED_BY_NAME:
        return ["ValueFromPipeline", "ValueFromPipelineByPropertyName"]
    return []


def _type(cmdlet: Documented, name: str, kind: str) -> str:
    base, many = kind.removesuffix("[]"), "[]" if kind.endswith("[]") else ""
    if base in _NATIVE:
        values = cmdlet.values.get(name)
        check = "[ValidateSet(" + ",".join(f"'{v}'" for v in values) + ")]" if values else ""
        return f"{check}[{_NATIVE[base]}{many}]"
    if base in overrides.ENUMS:
        return f"[{overrides.full_type(base)}{many}]"
    values = cmdlet.values.get(name)
    if values:
        return "[ValidateSet(" + ",".join(f"'{v}'" for v in values) + f")][string{many}]"
    if base in overrides.LOOSE:
        return f"[object{many}]"
    if base == "CimInstance":
        return f"[PSTypeName('{overrides.cim_parameter(cmdlet.name, name)}')][object{many}]"
    full = overrides.full_type(base)
    return f"[PSTypeName('{full}')][object{many}]"
