# Get-WinEvent over the event logs of the simulated host.

function Microsoft.PowerShell.Commands.GetWinEventCommand {
    [CmdletBinding(DefaultParameterSetName = 'GetLogSet')]
    param(
        [Parameter(ParameterSetName = 'GetLogSet', Position = 0, ValueFromPipeline, ValueFromPipelineByPropertyName)]
        [string[]]$LogName,
        [Parameter(ParameterSetName = 'ListLogSet', Mandatory, Position = 0)][string[]]$ListLog,
        [Parameter(ParameterSetName = 'HashQuerySet', Mandatory, Position = 0)][hashtable[]]$FilterHashtable,
        [Parameter(ParameterSetName = 'GetLogSet')][string]$FilterXPath,
        [long]$MaxEvents,
        [switch]$Oldest,
        [switch]$Force,
        [string]$ComputerName,
        [pscredential]$Credential
    )
    process { Invoke-SimulatedCmdlet $PSCmdlet 'Get-WinEvent' $PSBoundParameters '' }
}

Set-Alias Get-WinEvent Microsoft.PowerShell.Commands.GetWinEventCommand
