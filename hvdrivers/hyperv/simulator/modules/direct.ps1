# PowerShell Direct: Invoke-Command with -VMId enters the guest of a machine. A played guest is a runspace of
# its own: its programs are those of this computer, and what goes in and comes out is serialised, as in a session.
# The ids and classes of errors are those of PowerShell's source (InvokeCommandCommand, PSRemotingChildJob,
# RemoteSessionHyperVSocketClient in github.com/PowerShell/PowerShell).

function Microsoft.PowerShell.Commands.InvokeCommandCommand {
    [CmdletBinding()]
    param(
        [Parameter(Mandatory, Position = 0, ValueFromPipelineByPropertyName)][Alias('VMGuid')][guid]$VMId,
        [Parameter(Mandatory)][pscredential]$Credential,
        [Parameter(Mandatory, Position = 1)][Alias('Command')][scriptblock]$ScriptBlock,
        [Alias('Args')][object[]]$ArgumentList,
        [switch]$HideComputerName
    )
    process {
        $asked = @{ VMId = "$VMId"; UserName = $Credential.UserName
            Password = $Credential.GetNetworkCredential().Password }
        $run = Get-SimulatedRun "$VMId"
        $found = Get-SimulatedEntry $asked
        # a function of a module does not see the preference of its caller
        if (-not $PSBoundParameters.ContainsKey('ErrorAction')) {
            $ErrorActionPreference = $PSCmdlet.SessionState.PSVariable.GetValue('ErrorActionPreference')
        }
        $category = 'OpenError'
        $exception = switch ($found) {
            'absent' {
                $id, $category = 'InvalidVMIdNotSingle', 'InvalidArgument'
                [System.ArgumentException]::new("The input VMId $VMId does not resolve to a single virtual machine.")
            }
            'off' {
                $id, $category = 'InvalidVMState', 'InvalidArgument'
                [System.ArgumentException]::new("The virtual machine $VMId is not in running state.")
            }
            'silent' {
                $id = 'PSSessionStateBroken'
                [System.Management.Automation.PSInvalidOperationException]::new(
                    'An error has occurred which PowerShell cannot handle. A remote session might have ended.')
            }
            'refused' {
                $id = 'PSSessionStateBroken'
                [System.Management.Automation.Remoting.PSDirectException]::new('The credential is invalid.')
            }
        }
        if ($null -ne $exception) {
            $PSCmdlet.WriteError([System.Management.Automation.ErrorRecord]::new($exception, $id, $category, "$VMId"))
            return
        }
        $state = [initialsessionstate]::CreateDefault2()
        $state.ImportPSModule((Join-Path $PSScriptRoot '../SimulatedHost/SimulatedHost.psm1'))
        foreach ($pair in $guestFunctions.GetEnumerator()) {
            $state.Commands.Add([System.Management.Automation.Runspaces.SessionStateFunctionEntry]::new($pair.Key, "$($pair.Value)"))
        }
        # until its next shell begins, the process keeps them: another guest may be at something too
        $env:PATH = $env:HVSIM_PROGRAMS
        $runspace = [runspacefactory]::CreateRunspace($state)
        $runspace.Open()
        $runspace.SessionStateProxy.SetVariable('SimulatedGuest', "$VMId")
        $guest = [powershell]::Create()
        $guest.Runspace = $runspace
        try {
            $null = $guest.AddScript("$ScriptBlock")
            foreach ($each in $ArgumentList) { $null = $guest.AddArgument((Copy-Simulated $each)) }
            $said = [System.Management.Automation.PSDataCollection[psobject]]::new()
            $task = $guest.BeginInvoke([System.Management.Automation.PSDataCollection[psobject]]::new(), $said)
            for ($turn = 1; $true; $turn++) {
                $over = $task.AsyncWaitHandle.WaitOne(10)
                foreach ($each in $said.ReadAll()) { Copy-Simulated $each }
                if ($over) { break }
                # the bus of the machine ends with its guest's run, and the session with that
                if ($turn % 20 -eq 0 -and (Get-SimulatedRun "$VMId") -ne $run) {
                    $exception = [System.Management.Automation.Remoting.PSRemotingTransportException]::new(
                        'The Hyper-V socket target process has ended.')
                    $PSCmdlet.WriteError([System.Management.Automation.ErrorRecord]::new(
                        $exception, 'PSSessionStateBroken', 'OpenError', "$VMId"))
                    return
                }
            }
            try { $null = $guest.EndInvoke($task) } catch { $PSCmdlet.ThrowTerminatingError($_.Exception.InnerException.ErrorRecord) }
            foreach ($each in $guest.Streams.Error) { $PSCmdlet.WriteError($each) }
        }
        finally {
            $guest.Dispose()
            $runspace.Dispose()
        }
    }
}

function Get-SimulatedEntry {
    [CmdletBinding()]
    param($Asked)
    process { Invoke-SimulatedCmdlet $PSCmdlet 'Invoke-Command' $Asked '' }
}

# Which run of its guest a machine is in; nothing while it is off.
function Get-SimulatedRun {
    [CmdletBinding()]
    param([string]$Id)
    process { Invoke-SimulatedCmdlet $PSCmdlet 'Get-SimulatedRun' @{ VMId = $Id } '' }
}

function Copy-Simulated($Thing) {
    [System.Management.Automation.PSSerializer]::Deserialize([System.Management.Automation.PSSerializer]::Serialize($Thing))
}

# What a Windows guest has and this computer does not.
$guestFunctions = @{
    'Get-LocalUser' = {
        [CmdletBinding()]
        param()
        Invoke-SimulatedCmdlet $PSCmdlet 'Get-LocalUser' @{ VMId = $SimulatedGuest } ''
    }
    'Set-LocalUser' = {
        [CmdletBinding()]
        param([Parameter(Mandatory)]$SID, [Parameter(Mandatory)][securestring]$Password)
        $plain = [System.Net.NetworkCredential]::new('', $Password).Password
        $what = @{ VMId = $SimulatedGuest; SID = "$SID"; Password = $plain }
        Invoke-SimulatedCmdlet $PSCmdlet 'Set-LocalUser' $what ''
    }
}
Set-Alias Invoke-Command Microsoft.PowerShell.Commands.InvokeCommandCommand
