# The parts of CimCmdlets that scripts for Hyper-V use; this engine has no CIM client.

function Microsoft.Management.Infrastructure.CimCmdlets.GetCimInstanceCommand {
    [CmdletBinding(DefaultParameterSetName = 'ClassNameComputerSet')]
    param(
        [Parameter(ParameterSetName = 'ClassNameComputerSet', Mandatory, Position = 0)][string]$ClassName,
        [Parameter(ParameterSetName = 'QueryComputerSet', Mandatory)][string]$Query,
        [Parameter(ParameterSetName = 'CimInstanceComputerSet', Mandatory, Position = 0, ValueFromPipeline)]
        [PSTypeName('Microsoft.Management.Infrastructure.CimInstance')][object]$InputObject,
        [Parameter(ParameterSetName = 'ClassNameComputerSet')][Parameter(ParameterSetName = 'QueryComputerSet')]
        [string]$Namespace = 'root/cimv2',
        [Parameter(ParameterSetName = 'ClassNameComputerSet')][string]$Filter,
        [Parameter(ParameterSetName = 'ClassNameComputerSet')][string[]]$Property,
        [Alias('OT')][uint32]$OperationTimeoutSec,
        [Alias('CN', 'ServerName')][string[]]$ComputerName,
        [Parameter(ParameterSetName = 'ClassNameComputerSet')][switch]$KeyOnly,
        [string]$QueryDialect,
        [switch]$Shallow
    )
    process {
        if ($PSCmdlet.ParameterSetName -ne 'CimInstanceComputerSet') { $PSBoundParameters['Namespace'] = $Namespace }
        Invoke-SimulatedCmdlet $PSCmdlet 'Get-CimInstance' $PSBoundParameters ''
    }
}

function Microsoft.Management.Infrastructure.CimCmdlets.GetCimAssociatedInstanceCommand {
    [CmdletBinding()]
    param(
        [Parameter(Mandatory, Position = 0, ValueFromPipeline)][Alias('CimInstance')]
        [PSTypeName('Microsoft.Management.Infrastructure.CimInstance')][object]$InputObject,
        [Parameter(Position = 1)][string]$Association,
        [string]$ResultClassName,
        [string]$Namespace,
        [uint32]$OperationTimeoutSec,
        [switch]$KeyOnly
    )
    process { Invoke-SimulatedCmdlet $PSCmdlet 'Get-CimAssociatedInstance' $PSBoundParameters '' }
}

function Microsoft.Management.Infrastructure.CimCmdlets.InvokeCimMethodCommand {
    [CmdletBinding(SupportsShouldProcess, DefaultParameterSetName = 'CimInstanceComputerSet')]
    param(
        [Parameter(ParameterSetName = 'CimInstanceComputerSet', Mandatory, Position = 0, ValueFromPipeline)]
        [Alias('CimInstance')]
        [PSTypeName('Microsoft.Management.Infrastructure.CimInstance')][object]$InputObject,
        [Parameter(ParameterSetName = 'ClassNameComputerSet', Mandatory, Position = 0)][string]$ClassName,
        [Parameter(ParameterSetName = 'ClassNameComputerSet')][string]$Namespace = 'root/cimv2',
        [Parameter(Mandatory, Position = 1)][Alias('Name')][string]$MethodName,
        [Parameter(Position = 2)][System.Collections.IDictionary]$Arguments,
        [uint32]$OperationTimeoutSec
    )
    process { Invoke-SimulatedCmdlet $PSCmdlet 'Invoke-CimMethod' $PSBoundParameters 'Medium' }
}

Set-Alias Get-CimInstance Microsoft.Management.Infrastructure.CimCmdlets.GetCimInstanceCommand
Set-Alias Get-CimAssociatedInstance Microsoft.Management.Infrastructure.CimCmdlets.GetCimAssociatedInstanceCommand
Set-Alias Invoke-CimMethod Microsoft.Management.Infrastructure.CimCmdlets.InvokeCimMethodCommand
