# The engine of a simulated host takes the path of a share for one of this computer. The host knows better.

function Microsoft.PowerShell.Commands.TestPathCommand {
    [CmdletBinding(DefaultParameterSetName = 'Path')]
    param(
        [Parameter(Mandatory, Position = 0, ParameterSetName = 'Path', ValueFromPipeline,
            ValueFromPipelineByPropertyName)][AllowEmptyString()][string[]]$Path,
        [Parameter(Mandatory, ParameterSetName = 'LiteralPath',
            ValueFromPipelineByPropertyName)][Alias('PSPath')][AllowEmptyString()][string[]]$LiteralPath,
        [ValidateSet('Any', 'Container', 'Leaf')][string]$PathType = 'Any'
    )
    process {
        $given = if ($LiteralPath) { $LiteralPath } else { $Path }
        if ("$given".StartsWith('\\')) {
            Invoke-SimulatedCmdlet $PSCmdlet 'Test-Path' @{ LiteralPath = $given; PathType = $PathType } ''
        }
        elseif ($env:HVSIM_DRIVE -and $LiteralPath.Count -eq 1 -and $PathType -ceq 'Any' -and
            "$LiteralPath".StartsWith('C:\')) {
            # the engine reads each folder on the way there, to the one for temporary files and beyond
            $file = $env:HVSIM_DRIVE + '/' + "$LiteralPath".Substring(3).Replace('\', '/')
            [System.IO.File]::Exists($file) -or [System.IO.Directory]::Exists($file)
        }
        else { Microsoft.PowerShell.Management\Test-Path @PSBoundParameters }
    }
}
Set-Alias Test-Path Microsoft.PowerShell.Commands.TestPathCommand
