# The loop that lives on the host: requests come in by lines, each runs in a runspace of its own,
# answers go out by lines. Everything on the wire is ASCII.
#
#   in    ID run FLOOR DEADLINE OPERATION JSON [DATA [SECRETS]] .   JSON, DATA ("-": none) and each of
#                                                         SECRETS ("," between them) are base64
#         ID stop FLOOR .                                 the dot tells a whole line from a part
#         ID again FLOOR .                                the reply to ID once more, if there is one
#         0 hello 0 .                                     the first line out once more
#   out   HV1 NONCE ID KIND JSON                          KIND: reply, or held: ID cannot be stopped
#                                                         where it is, and goes on
#
# A line that comes twice is run once: the client sends it again when it does not know whether it
# arrived, or when the answer was lost. Answers are kept until the client says (FLOOR) that it has
# them. DEADLINE is the host's clock in ticks; a line that comes too late is not run.
#
# A call of the host is not stopped in the middle: nobody could tell whether the host does its work
# after all, when all that was begun is undone. A request that is to stop ends after the call, at the
# next look at its budget. Only what Open-Hv runs is stopped.

function Start-HvLoop {
    param([string]$Library)
    $settings = [Console]::In.ReadLine().Split(' ')
    $shared = [hashtable]::Synchronized(@{
        Nonce = $settings[0]
        Done = [hashtable]::Synchronized(@{})
        Facts = [hashtable]::Synchronized(@{})
        Started = [hashtable]::Synchronized(@{})
        Stopped = [hashtable]::Synchronized(@{})
        Open = [hashtable]::Synchronized(@{})
        Drives = [hashtable]::Synchronized(@{})
    })
    $state = [initialsessionstate]::CreateDefault2()
    $entry = New-Object System.Management.Automation.Runspaces.SessionStateVariableEntry(
        'HvShared', $shared, '')
    $state.Variables.Add($entry)
    # text would be parsed and compiled for each request, a function once. It loads the library into its
    # runspace, so that the functions are there for the requests that follow.
    $start = 'if (-not $global:HvLoaded) {' +
        ' . ([scriptblock]::Create($HvShared.Library)); $global:HvLoaded = $true };' +
        ' Invoke-HvRequest $args[0]'
    $entry = New-Object System.Management.Automation.Runspaces.SessionStateFunctionEntry(
        'Start-HvRequest', $start)
    $state.Commands.Add($entry)
    $shared.Library = $Library -replace '(?m)^function ', 'function global:'
    $shared.State = $state
    $shared.Host = $Host
    $shared.Most = [int]$settings[1]
    # no request waits for those of another kind, nor for a second runspace ("calls"), in which it
    # lets a call of the host go on while it looks whether somebody wants that to end. A request that
    # comes while nothing runs goes to the first runspace: most clients need no other, and each one
    # takes its time to open and to load the module. Other runspaces are opened when they are needed
    $pools = @{}
    $jobs = @{}
    $shared.Jobs = $jobs
    $seen = @{}
    $hello = 'HV1 {0} hello reply {1}'
    [Console]::Out.WriteLine(($hello -f $shared.Nonce, [DateTime]::UtcNow.Ticks))
    while ($null -ne ($line = [Console]::In.ReadLine())) {
        $part = $line.Split(' ')
        if ($part.Count -lt 4 -or $part[-1] -ne '.') { continue }
        $id = $part[0]
        $floor = [long]$part[2]
        foreach ($old in @($seen.Keys)) {
            # the client may have given up one that runs on
            $runs = $jobs.ContainsKey($old) -and -not $jobs[$old].Handle.IsCompleted
            if ([long]$old -lt $floor -and -not $runs) {
                foreach ($table in $seen, $shared.Done, $shared.Started, $shared.Stopped) {
                    $table.Remove($old)
                }
            }
        }
        foreach ($old in @($jobs.Keys)) {
            # what is not in "seen" was forgotten just now, with its reply
            if ($jobs[$old].Handle.IsCompleted -and
                ($shared.Done.ContainsKey($old) -or -not $seen.ContainsKey($old))) {
                $jobs[$old].Shell.Dispose()
                $jobs.Remove($old)
            }
        }
        if ($part[1] -eq 'hello') {
            [Console]::Out.WriteLine(($hello -f $shared.Nonce, [DateTime]::UtcNow.Ticks))
        }
        elseif ($shared.Done.ContainsKey($id)) {
            [Console]::Out.WriteLine($shared.Done[$id])
        }
        elseif ($part[1] -eq 'stop') {
            $shared.Stopped[$id] = $true
            $seen[$id] = $true
            if ($shared.Open.ContainsKey($id)) { [void]$jobs[$id].Shell.BeginStop($null, $null) }
            elseif ($shared.Started.ContainsKey($id)) {
                [Console]::Out.WriteLine(('HV1 {0} {1} held e30=' -f $shared.Nonce, $id))
            }
            else {
                # it never came, or waits for a runspace, where it will find that it was stopped
                Write-HvFrame $id @{ ok = $false; error = (New-HvStopped) } $shared
            }
        }
        elseif ($part[1] -eq 'run' -and -not $seen.ContainsKey($id)) {
            $seen[$id] = $true
            $kind = 'first'
            foreach ($other in $jobs.Keys) {
                if (-not $shared.Done.ContainsKey($other)) { $kind = Get-HvKind $part[4]; break }
            }
            if (-not $pools.ContainsKey($kind)) {
                $number = $shared.Most
                if ($kind -eq 'first') { $number = 1 }
                $pools[$kind] = Open-HvRunspaces $number $shared
            }
            $shell = [powershell]::Create()
            $shell.RunspacePool = $pools[$kind]
            [void]$shell.AddCommand('Start-HvRequest').AddArgument($part)
            $jobs[$id] = @{ Shell = $shell; Handle = $shell.BeginInvoke() }
        }
    }
    foreach ($job in @($jobs.Values)) { $job.Shell.Stop() }
}

function Open-HvRunspaces {
    param([int]$Number, $Shared = $HvShared)
    $pool = [runspacefactory]::CreateRunspacePool(1, $Number, $Shared.State, $Shared.Host)
    $pool.ThreadOptions = 'ReuseThread'
    $pool.Open()
    $pool
}

# The runspaces in which requests let calls of the host go on.
function Get-HvCallsPool {
    [System.Threading.Monitor]::Enter($HvShared.Done)
    try {
        if ($null -eq $HvShared.Calls) { $HvShared.Calls = Open-HvRunspaces (2 * $HvShared.Most) }
        $HvShared.Calls
    }
    finally { [System.Threading.Monitor]::Exit($HvShared.Done) }
}

# What takes minutes, what waits in a guest, what changes something, and what must not wait for any of
# these: looks, and requests that end one of the others.
function Get-HvKind {
    param([string]$Operation)
    $long = @('Move', 'Relocate', 'Export', 'ImagePull', 'ImageEnd', 'Rebuild',
        'Snapshot', 'DeleteSnapshot', 'Revert')
    $looks = @('Ping', 'Get', 'List', 'Host', 'Metrics', 'ListVolumes', 'Images', 'Snapshots',
        'Events', 'EventsBegin', 'Console', 'Addresses', 'Connector', 'Screen', 'ExportRead',
        'InMaintenance', 'MoveLook', 'MoveFits', 'MoveCompare', 'MoveState', 'Examine',
        'MoveAbort', 'RelocateEnd')
    if ($long -ccontains $Operation) { return 'long' }
    if ($looks -ccontains $Operation) { return 'looks' }
    # they take as long as a guest likes
    if ('GuestExec', 'GuestPassword' -ccontains $Operation) { return 'guests' }
    'changes'
}

function New-HvStopped {
    @{ id = 'Hv.Stopped'; message = 'stopped at the deadline; what was begun was undone' }
}

function Write-HvFrame {
    param([string]$Id, $Value, $Shared = $HvShared)
    $json = ConvertTo-Json -InputObject $Value -Depth 12 -Compress
    $frame = 'HV1 {0} {1} reply {2}' -f $Shared.Nonce, $Id,
        [Convert]::ToBase64String([Text.Encoding]::UTF8.GetBytes($json))
    $Shared.Done[$Id] = $frame
    [Console]::Out.WriteLine($frame)
}

function Invoke-HvRequest {
    param([string[]]$Part)
    $global:ErrorActionPreference = 'Stop'
    $global:ProgressPreference = 'SilentlyContinue'
    $global:WarningPreference = 'SilentlyContinue'
    $global:ConfirmPreference = 'None'
    $global:HvDeadline = [long]$Part[3]
    $global:HvNotUndone = $null
    $global:HvRunLost = $false
    $global:HvId = $Part[0]
    $HvShared.Started[$Part[0]] = $true
    if ($HvShared.Stopped.ContainsKey($Part[0])) { return }
    $reply = $null
    try {
        Assert-HvBudget
        if ($HvShared.Facts.Modules) { Import-HvModule }
        $text = [Text.Encoding]::UTF8.GetString([Convert]::FromBase64String($Part[5]))
        $secrets = @()
        if ($Part.Count -gt 8) { $secrets = $Part[7].Split(',') }
        $arguments = ConvertFrom-HvArgument (ConvertFrom-Json -InputObject $text) $secrets
        if ($Part.Count -gt 7 -and $Part[6] -ne '-') { $arguments['data'] = $Part[6] }
        $name = 'Invoke-Hv' + $Part[4]
        $value = & $name $arguments
        $reply = @{ ok = $true; value = $value }
    }
    catch {
        $reply = @{ ok = $false; error = (ConvertTo-HvError $_) }
        $between = Get-HvBetween $reply.error $arguments
        if ($between) { $reply.error = @{ id = 'Hv.BetweenStates'; message = $between } }
        $gone = Get-HvFolderGone $reply.error
        if ($gone) { $reply.error = @{ id = 'Hv.FolderGone'; message = $gone } }
    }
    finally {
        # a stopped pipeline comes only here
        if ($null -eq $reply) { $reply = @{ ok = $false; error = (New-HvStopped) } }
        # to start a guest again is no undo, and these two promise that nothing has changed
        if ($HvRunLost -and $null -eq $HvNotUndone -and -not $reply.ok -and
            $reply.error.id -in 'Hv.Deadline', 'Hv.Stopped') {
            $global:HvNotUndone = 'the guest was switched off, and started again'
        }
        if ($null -ne $HvNotUndone) {
            $message = $HvNotUndone
            if ($reply.error -and $reply.error.message) { $message += ". Why: $($reply.error.message)" }
            $reply = @{ ok = $false; error = @{ id = 'Hv.NotUndone'; message = $message } }
        }
        Write-HvFrame $Part[0] $reply
    }
}

# Strings come with '=' in front: ConvertFrom-Json of 5.1 takes '/Date(0)/' for a date. '#' stands for a
# secret: Windows may log the parameters of all cmdlets, so secrets are in none where that can be helped.
function ConvertFrom-HvArgument {
    param($Value, [string[]]$Secrets)
    if ($Value -is [string]) {
        if (-not $Value.StartsWith('#', 'Ordinal')) { return $Value.Substring(1) }
        return [Text.Encoding]::UTF8.GetString([Convert]::FromBase64String($Secrets[[int]$Value.Substring(1)]))
    }
    if ($Value -is [System.Management.Automation.PSCustomObject]) {
        $table = @{}
        foreach ($each in $Value.PSObject.Properties) {
            $table[$each.Name] = ConvertFrom-HvArgument $each.Value $Secrets
        }
        return $table
    }
    if ($Value -is [array]) {
        $list = New-Object System.Collections.ArrayList
        foreach ($each in $Value) { [void]$list.Add((ConvertFrom-HvArgument $each $Secrets)) }
        return , $list.ToArray()
    }
    $Value
}

# An error of ours: Stop-Hv 'InstanceExists' 'the UUID is taken'.
function Stop-Hv {
    param([string]$Id, [string]$Message)
    throw (New-Object System.Management.Automation.ErrorRecord(
        (New-Object InvalidOperationException($Message)), "Hv.$Id", 'InvalidOperation', $null))
}

# Runs the undo of what a request has begun, with time of its own. It succeeds or says so: then
# nobody can be told that nothing has changed.
function Undo-Hv {
    param([scriptblock]$Steps)
    $global:HvDeadline = [Math]::Max($HvDeadline, [DateTime]::UtcNow.AddSeconds(3).Ticks)
    $global:HvNotUndone = 'what was begun could not be removed'
    try {
        . $Steps
        $global:HvNotUndone = $null
    }
    catch { $global:HvNotUndone = "what was begun could not be removed: $($_.Exception.Message)" }
}

# Runs what may be stopped at the deadline, in the middle of a call of the host.
function Open-Hv {
    param([scriptblock]$Steps)
    $HvShared.Open[$HvId] = $true
    try {
        if (-not $HvShared.Stopped.ContainsKey($HvId)) { . $Steps }
    }
    finally { $HvShared.Open.Remove($HvId) }
    if ($HvShared.Stopped.ContainsKey($HvId)) {
        # the stop may be under way: it must not meet what comes next
        Start-Sleep -Seconds 1
        Stop-Hv 'Stopped' 'stopped at the deadline; what was begun was undone'
    }
}

function Assert-HvBudget {
    if ([DateTime]::UtcNow.Ticks -ge $HvDeadline) {
        Stop-Hv 'Deadline' 'the deadline passed; what was begun was undone'
    }
}

# Waits a moment within the budget. There is nothing to subscribe to inside a script.
function Wait-Hv {
    param([int]$Milliseconds = 20)
    Assert-HvBudget
    Start-Sleep -Milliseconds $Milliseconds
}

# What an error is, for the one table of the driver: codes, never the localised text.
function ConvertTo-HvError {
    param($Record)
    $codes = New-Object System.Collections.ArrayList
    $types = New-Object System.Collections.ArrayList
    $exception = $Record.Exception
    while ($null -ne $exception) {
        [void]$codes.Add([long]$exception.HResult)
        [void]$types.Add($exception.GetType().Name)
        $exception = $exception.InnerException
    }
    @{
        id = [string]$Record.FullyQualifiedErrorId
        category = [string]$Record.CategoryInfo.Category
        message = [string]$Record.Exception.Message
        codes = $codes.ToArray()
        types = $types.ToArray()
        command = [string]$Record.InvocationInfo.MyCommand
        line = [int]$Record.InvocationInfo.ScriptLineNumber
    }
}

function Invoke-HvPing {
    param($Arguments)
    @{ ticks = [DateTime]::UtcNow.Ticks }
}
