# What storage servers show to the host: logical units of iSCSI targets, which its own initiator logs in to, and
# of ports on the Fibre Channel. Who logs in or out holds the lock "disks".
#
#   ROOT\index\HASH.session    the driver has logged in to the target in its first line; then for each
#                              portal its name, its port, and whether the driver has named it to the host.
#                              If it was killed, it may not have logged in to the last one
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

# Whether Multipath I/O makes one disk of all paths by iSCSI. Windows has the cmdlet with that feature.
function Test-HvMultipath {
    try { $claims = Get-MSDSMAutomaticClaimSettings }
    catch {
        $id = $_.FullyQualifiedErrorId.Split(',')[0]
        if ($id -match 'CommandNotFoundException|CouldNotAutoload') { return $false }
        throw
    }
    [bool]$claims.iSCSI
}

# Logs in, unless the host is logged in already. True: it was not.
function Connect-HvTarget {
    param($Target, $Disk, [bool]$Multi)
    if (@(Get-HvIscsiSessions $Target.iqn).Count -gt 0) { return $false }
    Connect-HvPath $Target $Disk $Multi @()
}

# Logs in by a portal. PATHS: those of the target that the driver has logged in to already. False: somebody
# else has logged in meanwhile.
function Connect-HvPath {
    param($Target, $Disk, [bool]$Multi, $Paths)
    $portal = @{ TargetPortalAddress = $Target.host; TargetPortalPortNumber = [int]$Target.port }
    $known = @(Get-IscsiTargetPortal | Where-Object {
        "$($_.TargetPortalAddress)" -eq $Target.host -and
        [int]$_.TargetPortalPortNumber -eq [int]$Target.port })
    $ours = $known.Count -eq 0 -or @(Get-HvMarks | ForEach-Object { $_.paths } | Where-Object {
        $_.ours -and $_.host -eq $Target.host -and $_.port -eq [int]$Target.port }).Count -gt 0
    # before anything is made: who dies then leaves a file by which it is found
    $path = @{ host = $Target.host; port = [int]$Target.port; ours = $ours }
    Set-HvMark $Target.iqn (@($Paths) + @($path))
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
    $login = @{ NodeAddress = $Target.iqn; IsPersistent = $true }
    if ($Multi) { $login.IsMultipathEnabled = $true }
    if ($Disk.chap) {
        $login += @{ AuthenticationType = 'ONEWAYCHAP'; ChapUsername = $Disk.chap.user
            ChapSecret = $Disk.chap.secret }
    }
    try { $session = Connect-IscsiTarget @login @portal }
    catch {
        if (-not (Test-HvLoggedIn $_)) { throw }
        # somebody else has meanwhile, and logs out
        Set-HvMark $Target.iqn $Paths
        return $false
    }
    # with multipath the initiator takes both logins
    if (@($Paths).Count -eq 0 -and @(Get-HvIscsiSessions $Target.iqn).Count -gt 1) {
        $own = @{ SessionIdentifier = $session.SessionIdentifier }
        Unregister-IscsiSession @own
        Disconnect-IscsiTarget @own -Confirm:$false
        Set-HvMark $Target.iqn $Paths
        return $false
    }
    $true
}

# Logs in by the other portals of a target, where Multipath I/O makes one disk of all paths. One that does not
# answer is left out, as are those in DEAD. Sessions of somebody else stay as they are.
function Connect-HvOtherPaths {
    param($Target, $Disk, $Dead)
    foreach ($each in $Disk.targets) {
        if ($each.iqn -ne $Target.iqn -or [long]$each.lun -ne [long]$Target.lun -or
            $Dead.Contains($each)) { continue }
        $mark = @(Get-HvMarks | Where-Object { $_.iqn -eq $Target.iqn })
        if ($mark.Count -eq 0) { return }
        $there = @($mark[0].paths | Select-Object -First (Get-HvIscsiSessions $Target.iqn).Count)
        if (@($there | Where-Object {
            $_.host -eq $each.host -and $_.port -eq [int]$each.port }).Count -gt 0) { continue }
        try { $null = Connect-HvPath $each $Disk $true $there }
        catch {
            if (-not (Test-HvUnreachable $_)) { throw }
            Set-HvMark $Target.iqn $there
            Remove-HvPortal @{ host = $each.host; port = [int]$each.port }
        }
    }
}

# How many portals of the target the volume names.
function Get-HvPathCount {
    param($Target, $Disk)
    @($Disk.targets | Where-Object {
        $_.iqn -eq $Target.iqn -and [long]$_.lun -eq [long]$Target.lun }).Count
}

# What the driver has logged in to.
function Get-HvMarks {
    foreach ($file in [IO.Directory]::GetFiles($HvShared.Facts.Index, '*.session')) {
        $text = @([IO.File]::ReadAllLines($file))
        $paths = @(for ($at = 1; $at + 2 -lt $text.Count; $at += 3) {
            @{ host = $text[$at]; port = [int]$text[$at + 1]; ours = $text[$at + 2] -eq 'True' }
        })
        @{ file = $file; iqn = $text[0]; paths = $paths }
    }
}

function Set-HvMark {
    param([string]$Iqn, $Paths)
    $file = Get-HvTargetFile $Iqn
    $text = @($Iqn)
    foreach ($each in $Paths) { $text += $each.host, [string]$each.port, [string]$each.ours }
    if ($text.Count -eq 1) { Remove-HvFile $file } else { Set-HvFile $file ($text -join "`n") }
}

# The host need not know the portal any more, unless the driver has logged in by it.
function Remove-HvPortal {
    param($Path)
    $same = @(Get-HvMarks | ForEach-Object { $_.paths } | Where-Object {
        $_.host -eq $Path.host -and $_.port -eq $Path.port })
    if ($same.Count -eq 0) { Remove-HvKnownPortal $Path }
}

function Remove-HvKnownPortal {
    param($Path)
    $portal = @(Get-IscsiTargetPortal | Where-Object {
        "$($_.TargetPortalAddress)" -eq $Path.host -and
        [int]$_.TargetPortalPortNumber -eq $Path.port })
    if ($portal.Count -gt 0) {
        Remove-IscsiTargetPortal -TargetPortalAddress $Path.host `
            -TargetPortalPortNumber $Path.port -Confirm:$false
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
    # the file goes last: who dies before leaves one by which the portals are found
    $others = @(Get-HvMarks | Where-Object { $_.iqn -ne $Iqn } | ForEach-Object { $_.paths })
    foreach ($path in $mark[0].paths) {
        $same = @($others | Where-Object { $_.host -eq $path.host -and $_.port -eq $path.port })
        if ($path.ours -and $same.Count -eq 0) { Remove-HvKnownPortal $path }
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
