# What Multipath I/O claims. Windows without that feature has no such module.

function Microsoft.Windows.Mpio.GetMSDSMAutomaticClaimSettingsCommand {
    [CmdletBinding()]
    param([string[]]$CimSession, [int]$ThrottleLimit, [switch]$AsJob)
    process {
        foreach ($each in Invoke-SimulatedCmdlet $PSCmdlet 'Get-MSDSMAutomaticClaimSettings' $PSBoundParameters '') {
            @{ SAS = [bool]$each.SAS; iSCSI = [bool]$each.iSCSI }
        }
    }
}

Set-Alias Get-MSDSMAutomaticClaimSettings Microsoft.Windows.Mpio.GetMSDSMAutomaticClaimSettingsCommand
