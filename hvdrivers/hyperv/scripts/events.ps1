# What has happened: the host's own numbered logs tell of machines, the folder "index" of instances.

function Get-HvLogs {
    'Microsoft-Windows-Hyper-V-VMMS-Admin', 'Microsoft-Windows-Hyper-V-Worker-Admin'
}

# Where the logs end now, and what the instances are.
function Invoke-HvEventsBegin {
    param($Arguments)
    $positions = @{}
    foreach ($log in Get-HvLogs) { $positions[$log] = Get-HvNewest $log }
    $devices = @{}
    foreach ($file in Get-HvDeviceFiles) { $devices[$file.Uuid] = $file.Number }
    @{ positions = $positions; index = Get-HvIndex; devices = $devices; boot = $HvShared.Facts.Boot }
}

function Get-HvNewest {
    param([string]$Log)
    try { $newest = @(Get-WinEvent -LogName $Log -MaxEvents 1)[0] }
    catch {
        if ($_.FullyQualifiedErrorId -notmatch '^NoMatchingEventsFound') { throw }
        return 0L
    }
    [long]$newest.RecordId
}

# VM Id, UUID, time of completion and state at that time of every instance.
function Get-HvIndex {
    $found = New-Object System.Collections.ArrayList
    foreach ($file in [IO.Directory]::GetFiles($HvShared.Facts.Index, '*.vm')) {
        $part = ([IO.Path]::GetFileName($file)).Split('.')
        try {
            $state = [IO.File]::ReadAllText($file)
            $ticks = [IO.File]::GetLastWriteTimeUtc($file).Ticks
            [void]$found.Add(@($part[1], $part[0], $ticks, $state))
        }
        catch [IO.IOException] { $null = $_ }
    }
    , $found.ToArray()
}

# Records that are newer than these positions, and the instances if they have changed; waits for
# either for as long as it may.
function Invoke-HvEvents {
    param($Arguments)
    $end = [DateTime]::UtcNow.AddMilliseconds($Arguments.wait).Ticks
    $known = @{}
    foreach ($each in $Arguments.known) { $known[$each] = $true }
    $devices = $Arguments.devices
    while ($true) {
        # before the logs: what a machine's end removes was read by then
        $changes = New-Object System.Collections.ArrayList
        $changes.AddRange((Get-HvDeviceChanges $devices))
        $records = New-Object System.Collections.ArrayList
        $positions = @{}
        $missed = $false
        foreach ($log in Get-HvLogs) {
            $at = [long]$Arguments.positions[$log]
            $positions[$log] = $at
            foreach ($record in Get-HvRecordsAfter $log $at) {
                if ([long]$record.RecordId -le $at) { continue }
                [void]$records.Add(@($record.TimeCreated.ToUniversalTime().Ticks,
                    [int]$record.Id, (Get-HvEventMachine $record), [long]$record.RecordId))
                $positions[$log] = [Math]::Max([long]$positions[$log], [long]$record.RecordId)
            }
            if ($records.Count -eq 0 -and (Get-HvNewest $log) -lt $at) { $missed = $true }
        }
        # and after them: a record must not be told before the change that came before it
        $changes.AddRange((Get-HvDeviceChanges $devices))
        $files = [IO.Directory]::GetFiles($HvShared.Facts.Index, '*.vm')
        $changed = $files.Length -ne $known.Count
        foreach ($file in $files) {
            if (-not $known[[IO.Path]::GetFileName($file)]) { $changed = $true }
        }
        if ($missed -or $changed -or $records.Count -gt 0 -or $changes.Count -gt 0 -or
            [DateTime]::UtcNow.Ticks -ge $end) {
            $index = $null
            if ($changed) { $index = Get-HvIndex }
            return @{
                records = $records.ToArray(); positions = $positions
                index = $index; missed = $missed; boot = $HvShared.Facts.Boot
                devices = $devices; changes = $changes.ToArray()
                rescued = @((Get-HvRescued).Keys)
            }
        }
        Wait-Hv 100
    }
}

# Devices. The host's logs name none by an id of ours, so the scripts write down what they add and
# remove. The file's name has the number of its last line, so that a listing of the folder shows a
# change. Its lines are NUMBER KIND WORD; numbers are times in ticks, and only grow, also where a
# new instance gets the UUID of one that is gone.

function Get-HvDeviceFiles {
    param([string]$Uuid = '*')
    foreach ($file in [IO.Directory]::GetFiles($HvShared.Facts.Index, "$Uuid.*.devices")) {
        $part = ([IO.Path]::GetFileName($file)).Split('.')
        @{ Uuid = $part[0]; Number = [long]$part[1]; File = $file }
    }
}

# A device came to a machine that is powered on, or went. The caller has the lock of the instance.
function Write-HvDevice {
    param($Found, [string]$Kind, [string]$Word)
    if ($Found.State -eq 'stopped' -or $Found.State -eq 'suspended') { return }
    $number = [DateTime]::UtcNow.Ticks
    $lines = @()
    $old = @(Get-HvDeviceFiles $Found.Uuid)
    $newest = $null
    # more than one only where a client died before it deleted the older one
    foreach ($file in $old) {
        if ($null -eq $newest -or $file.Number -gt $newest.Number) { $newest = $file }
    }
    if ($null -ne $newest) {
        $number = [Math]::Max($number, $newest.Number + 1)
        $lines = @([IO.File]::ReadAllLines($newest.File) | Select-Object -Last 49)
    }
    $lines += "$number $Kind $Word"
    $name = "$($Found.Uuid).$number.devices"
    Set-HvFile ([IO.Path]::Combine($HvShared.Facts.Index, $name)) (($lines -join "`n") + "`n")
    foreach ($file in $old) { Remove-HvFile $file.File }
}

# What was written after these numbers, by UUID, which are brought up to date.
function Get-HvDeviceChanges {
    param($Numbers)
    $found = New-Object System.Collections.ArrayList
    $gone = @{}
    foreach ($uuid in $Numbers.Keys) { $gone[$uuid] = $true }
    foreach ($file in Get-HvDeviceFiles) {
        $gone.Remove($file.Uuid)
        $at = 0L
        if ($Numbers.ContainsKey($file.Uuid)) { $at = [long]$Numbers[$file.Uuid] }
        if ($file.Number -le $at) { continue }
        try { $lines = [IO.File]::ReadAllLines($file.File) }
        catch [IO.IOException] { continue }  # there is a newer one, which the next look finds
        foreach ($line in $lines) {
            $part = $line.Split(' ')
            if ($part.Count -lt 3 -or [long]$part[0] -le $at) { continue }
            [void]$found.Add(@($file.Uuid, [long]$part[0], $part[1], $part[2]))
        }
        $Numbers[$file.Uuid] = $file.Number
    }
    foreach ($uuid in $gone.Keys) { $Numbers.Remove($uuid) }
    , $found.ToArray()
}

function Get-HvRecordsAfter {
    param([string]$Log, [long]$Position)
    try {
        Get-WinEvent -LogName $Log -Oldest -FilterXPath "*[System[EventRecordID > $Position]]"
    }
    catch {
        if ($_.FullyQualifiedErrorId -notmatch '^NoMatchingEventsFound') { throw }
    }
}

# The machine's Id is one of the record's values, or in its text, whatever the language.
function Get-HvEventMachine {
    param($Record)
    $pattern = '[0-9A-Fa-f]{8}-([0-9A-Fa-f]{4}-){3}[0-9A-Fa-f]{12}'
    foreach ($property in $Record.Properties) {
        if ("$($property.Value)" -match "^\{?($pattern)\}?$") {
            return $Matches[1].ToLowerInvariant()
        }
    }
    $found = [regex]::Matches("$($Record.Message)", $pattern)
    if ($found.Count -gt 0) { return $found[$found.Count - 1].Value.ToLowerInvariant() }
    ''
}
