# What storage servers show to the host: logical units of iSCSI targets, which its own initiator logs in to, and
# of ports on the Fibre Channel. Who logs in or out holds the lock "disks".
#
#   ROOT\index\HASH.session    the driver has logged in to the target in its first line; then the portal,
#                              its port, and whether the driver has named the portal to the host
#
# A login is persistent: the host repeats it when it starts, with the credentials that it keeps itself.

function Get-HvTargetFile {
    param([string]$Iqn)
    $sha = [Security.Cryptography.SHA256]::Create()
    try { $hash = $sha.ComputeHash([Text.Encoding]::UTF8.GetBytes($Iqn)) }
    finally { $sha.Dispose() }
    $name = -join ($hash[0..15] | ForEach-Object { $_.ToString('x2') })
    [IO.Path]::Combine($HvShared.Facts.Index, "$name.session")
}

# The target of a volume's path; empty for one that is not behind iSCSI.
function Get-HvIqn {
    param([string]$Path)
    if ($Path -match '^iscsi:(.+),\d+$') { return $Matches[1] }
    ''
}

function Get-HvIscsiSessions {
    param([string]$Iqn)
    @(Get-IscsiSession | Where-Object { "$($_.TargetNodeAddress)" -eq $Iqn })
}

# The initiator's words for a failure: the target or its portal does not answer. ISDSC_CONNECTION_FAILED,
# ISDSC_SERVICE_UNAVAILABLE, ISDSC_DNS_NAME_UNRESOLVED.
function Test-HvUnreachable {
    param($Problem)
    @('HRESULT 0xefff0003', 'HRESULT 0xefff0013', 'HRESULT 0xefff005f') -contains
        $Problem.FullyQualifiedErrorId.Split(',')[0]
}

# ISDSC_TARGET_ALREADY_LOGGED_IN
function Test-HvLoggedIn {
    param($Problem)
    $Problem.FullyQualifiedErrorId.Split(',')[0] -eq 'HRESULT 0xefff003f'
}

# Logs in, unless the host is logged in already. True: it was not.
function Connect-HvTarget {
    param($Target, $Disk)
    if (@(Get-HvIscsiSessions $Target.iqn).Count -gt 0) { return $false }
    $portal = @{ TargetPortalAddress = $Target.host; TargetPortalPortNumber = [int]$Target.port }
    $known = @(Get-IscsiTargetPortal | Where-Object {
        "$($_.TargetPortalAddress)" -eq $Target.host -and
        [int]$_.TargetPortalPortNumber -eq [int]$Target.port })
    $mark = Get-HvTargetFile $Target.iqn
    $ours = $known.Count -eq 0 -or @(Get-HvMarks | Where-Object {
        $_.ours -and $_.host -eq $Target.host -and $_.port -eq [int]$Target.port }).Count -gt 0
    # before anything is made: who dies then leaves a file by which it is found
    Set-HvFile $mark ($Target.iqn, $Target.host, [string]$Target.port, [string]$ours -join "`n")
    if ($known.Count -eq 0) {
        $chap = @{}
        if ($Disk.discovery) {
            $chap = @{ AuthenticationType = 'ONEWAYCHAP'; ChapUsername = $Disk.discovery.user
                ChapSecret = $Disk.discovery.secret }
        }
        $null = New-IscsiTargetPortal @portal @chap
    }
    else { Update-IscsiTargetPortal @portal }
    Assert-HvBudget
    $chap = @{}
    if ($Disk.chap) {
        $chap = @{ AuthenticationType = 'ONEWAYCHAP'; ChapUsername = $Disk.chap.user
            ChapSecret = $Disk.chap.secret }
    }
    try { $null = Connect-IscsiTarget -NodeAddress $Target.iqn @portal -IsPersistent $true @chap }
    catch {
        if (-not (Test-HvLoggedIn $_)) { throw }
        # somebody else has meanwhile, and logs out
        Remove-HvFile $mark
        return $false
    }
    $true
}

# What the driver has logged in to.
function Get-HvMarks {
    foreach ($file in [IO.Directory]::GetFiles($HvShared.Facts.Index, '*.session')) {
        $text = @([IO.File]::ReadAllLines($file))
        @{ file = $file; iqn = $text[0]; host = $text[1]; port = [int]$text[2]
            ours = $text[3] -eq 'True' }
    }
}

# Logs out of a target that the driver has logged in to, unless anybody uses it: an instance has a volume of
# it, whatever that machine's drive is called now; a machine of others has one of its disks; or the host
# itself has one online. EXCEPT: "UUID ID" of a volume that is about to go.
function Disconnect-HvTarget {
    param([string]$Iqn, [string]$Except)
    $mark = @(Get-HvMarks | Where-Object { $_.iqn -eq $Iqn })
    if ($mark.Count -eq 0 -or (Test-HvTargetUsed $Iqn $Except)) { return }
    $sessions = @(Get-HvIscsiSessions $Iqn)
    foreach ($session in $sessions) {
        if ($session.IsPersistent) {
            Unregister-IscsiSession -SessionIdentifier $session.SessionIdentifier
        }
    }
    if ($sessions.Count -gt 0) { Disconnect-IscsiTarget -NodeAddress $Iqn -Confirm:$false }
    $same = @(Get-HvMarks | Where-Object {
        $_.iqn -ne $Iqn -and $_.host -eq $mark[0].host -and $_.port -eq $mark[0].port })
    if ($mark[0].ours -and $same.Count -eq 0) {
        $portal = @(Get-IscsiTargetPortal | Where-Object {
            "$($_.TargetPortalAddress)" -eq $mark[0].host -and
            [int]$_.TargetPortalPortNumber -eq $mark[0].port })
        if ($portal.Count -gt 0) {
            Remove-IscsiTargetPortal -TargetPortalAddress $mark[0].host `
                -TargetPortalPortNumber $mark[0].port -Confirm:$false
        }
    }
    Remove-HvFile $mark[0].file
}

function Test-HvTargetUsed {
    param([string]$Iqn, [string]$Except)
    foreach ($folder in [IO.Directory]::GetDirectories((Convert-Path -LiteralPath `
        "$($HvShared.Facts.Root)\instances"))) {
        $uuid = [IO.Path]::GetFileName($folder)
        $file = [IO.Path]::Combine($folder, 'record')
        try { $lines = @([IO.File]::ReadAllLines($file)) }
        catch [IO.IOException] { continue }
        foreach ($line in $lines) {
            if (-not $line.StartsWith('volume ', 'Ordinal')) { continue }
            $word = $line.Split(' ')
            if ((Get-HvIqn (ConvertFrom-HvWord $word[2])) -eq $Iqn -and
                "$uuid $($word[1])" -cne $Except) { return $true }
        }
    }
    $numbers = @(foreach ($unit in Get-HvUnits $Iqn) { $unit.number })
    if ($numbers.Count -eq 0) { return $false }
    foreach ($drive in Get-HvAllDrives) {
        if ($null -ne $drive.DiskNumber -and $numbers -contains [long]$drive.DiskNumber) {
            return $true
        }
    }
    @(Get-Disk -Number $numbers | Where-Object { -not $_.IsOffline }).Count -gt 0
}

function Get-HvAllDrives {
    $machines = @(Hyper-V\Get-VM)
    if ($machines.Count -gt 0) { Get-HvDrives $machines }
}

# The logical units of the sessions to a target that are disks.
function Get-HvUnits {
    param([string]$Iqn)
    foreach ($session in Get-CimInstance -Namespace 'root/wmi' `
        -ClassName MSiSCSIInitiator_SessionClass) {
        if ("$($session.TargetName)" -ne $Iqn) { continue }
        foreach ($device in $session.Devices) {
            $number = [long]$device.DeviceNumber
            if ($number -ne 4294967295) { @{ lun = [long]$device.ScsiLun; number = $number } }
        }
    }
}

# The same for a port of a storage server on the Fibre Channel.
function Get-HvFibreUnits {
    param([string]$Wwn)
    $adapters = @(Get-CimInstance -Namespace 'root/wmi' -ClassName MSFC_HBAFCPInfo)
    foreach ($port in Get-InitiatorPort) {
        if ("$($port.ConnectionType)" -notmatch 'Fibre|^1$') { continue }
        $digits = "$($port.PortAddress)" -replace '[^0-9A-Fa-f]', ''
        $bytes = [byte[]]@(for ($at = 0; $at -lt 16; $at += 2) {
            [Convert]::ToByte($digits.Substring($at, 2), 16) })
        foreach ($adapter in $adapters) {
            $found = Invoke-CimMethod -InputObject $adapter -MethodName GetFcpTargetMapping `
                -Arguments @{ HbaPortWWN = $bytes; InEntryCount = [uint32]4096 }
            # not a port of this adapter
            if ([int]$found.HBAStatus -ne 0) { continue }
            foreach ($entry in $found.Entry) {
                $target = -join (@($entry.FCPId.PortWWN) | ForEach-Object { $_.ToString('x2') })
                if ($target -ne $Wwn -or
                    "$($entry.ScsiId.OSDeviceName)" -notmatch 'PhysicalDrive(\d+)$') { continue }
                @{ lun = [long]$entry.ScsiId.ScsiOSLun; number = [long]$Matches[1] }
            }
        }
    }
}
