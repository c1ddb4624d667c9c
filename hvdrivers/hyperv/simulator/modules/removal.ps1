# What the engine does on this computer has other codes than on Windows, and nothing comes between.

function Microsoft.PowerShell.Commands.RemoveItemCommand {
    [CmdletBinding(DefaultParameterSetName = 'Path')]
    param(
        [Parameter(Mandatory, Position = 0, ParameterSetName = 'Path', ValueFromPipeline,
            ValueFromPipelineByPropertyName)][string[]]$Path,
        [Parameter(Mandatory, ParameterSetName = 'LiteralPath',
            ValueFromPipelineByPropertyName)][Alias('PSPath')][string[]]$LiteralPath,
        [switch]$Recurse,
        [switch]$Force,
        [switch]$Confirm
    )
    process {
        if ($LiteralPath.Count -eq 1 -and "$LiteralPath" -match '^(C:\\|\\\\)') {
            $given = @{ LiteralPath = "$LiteralPath"; Recurse = [bool]$Recurse }
            Invoke-SimulatedCmdlet $PSCmdlet 'Remove-Item' $given ''
        }
        else { Microsoft.PowerShell.Management\Remove-Item @PSBoundParameters }
    }
}
Set-Alias Remove-Item Microsoft.PowerShell.Commands.RemoveItemCommand
