# Where things are on the host, who owns which machine, and how two clients keep out of each
# other's way.
#
#   ROOT\index\UUID.claim         only one spawn can make it; it holds the Id of the machine
#   ROOT\index\UUID.VMID.vm       the machine VMID is the instance UUID: written when it is complete
#   ROOT\index\UUID.VMID.incoming, UUID.leaving   it comes from another host, or goes to one
#                                 (migration.ps1)
#   ROOT\index\UUID.rescue        it runs from a rescue disk
#   ROOT\index\UUID.N.devices     the last devices that came or went while it was powered on
#   ROOT\index\UUID.rebuild       its root disk is being replaced (reshape.ps1)
#   ROOT\index\UUID.reconnect     its connections are being replaced (reconnect.ps1)
#   ROOT\index\UUID.revert        a checkpoint is being applied (snapshots.ps1)
#   ROOT\index\UUID.begun         a request is in a change that a late call of the host would undo, or its
#                                 client has died in it (abandoned.ps1)
#   ROOT\index\maintenance, down  nothing is started (maintenance.ps1)
#   ROOT\instances\UUID\          the machine's files and disks, and "record"
#   ROOT\index\UUID.storage       its disks go to another pool (relocation.ps1)
#   POOL\UUID\                   its disks, if they are in another pool
#   ROOT\images\KEY.vhdx          the image cache
#   ROOT\volumes\                 the pool "default"
#   ROOT\locks\                   open while a request changes an instance
#
# Names of machines, notes and drives are changed by people and by checkpoints; these files are not.

function Invoke-HvOpen {
    param($Arguments)
    $HvShared.Facts.Modules = $true
    Import-HvModule
    $vmhost = Hyper-V\Get-VMHost
    $root = $Arguments.folder
    if (-not $root) { $root = "$($vmhost.VirtualHardDiskPath)".TrimEnd('\') + '\hvdrivers' }
    $HvShared.Facts.Root = $root
    $HvShared.Facts.Pools = $Arguments.pools
    $HvShared.Facts.Disks = $Arguments.disks
    $HvShared.Facts.Nics = $Arguments.nics
    $HvShared.Facts.Mmio = [long]$Arguments.mmio
    foreach ($name in 'index', 'instances', 'images', 'volumes', 'locks') {
        if (-not (Test-Path -LiteralPath "$root\$name")) {
            $null = New-Item -ItemType Directory -Force -Path "$root\$name"
        }
    }
    $HvShared.Facts.Index = Convert-Path -LiteralPath "$root\index"
    $HvShared.Facts.Locks = Convert-Path -LiteralPath "$root\locks"
    $system = Get-CimInstance -ClassName Win32_OperatingSystem
    $HvShared.Facts.Boot = $system.LastBootUpTime.ToUniversalTime().Ticks
    $null = Test-HvGoingDown # once the host is up again its note is removed
    $ports = Get-HvPorts
    @{
        initiator = $ports.iscsi -gt 0
        fibre = $ports.fibre -gt 0
        assigns = Test-HvCommand 'Add-VMAssignableDevice'
        gpus = @(Get-HvHostGpus).Count -gt 0
        root = $root
        computer = [string]$vmhost.ComputerName
        caption = [string]$system.Caption
        version = [string]$system.Version
        engine = [string]$PSVersionTable.PSVersion
        processors = [int]$vmhost.LogicalProcessorCount
    }
}

# How many ports the host has to storage servers. The class needs no module.
function Get-HvPorts {
    $ports = @{ iscsi = 0; fibre = 0 }
    try {
        foreach ($port in Get-CimInstance -Namespace 'root/Microsoft/Windows/Storage' `
            -ClassName MSFT_InitiatorPort) {
            if ([int]$port.ConnectionType -eq 1) { $ports.fibre++ }
            elseif ([int]$port.ConnectionType -eq 2) { $ports.iscsi++ }
        }
    }
    # an administrator may see them, and nobody else may use them
    catch { $null = $_ }
    $ports
}

function Import-HvModule {
    if ($global:HvReady) { return }
    Import-Module -Name Hyper-V -DisableNameChecking
    $global:HvReady = $true
}

# Whether the host's module is new enough for a parameter.
function Test-HvParameter {
    param([string]$Cmdlet, [string]$Parameter)
    $found = Get-Command -Name "Hyper-V\$Cmdlet"
    if ($found.CommandType -eq 'Alias') { $found = $found.ResolvedCommand }
    $found.Parameters.ContainsKey($Parameter)
}

# A path as .NET sees it. On Windows that is the same one.
function Get-HvReal {
    param([string]$Path)
    if ($Path.Length -lt 3 -or -not $Path.Substring(1).StartsWith(':\', 'Ordinal')) {
        return Convert-Path -LiteralPath $Path
    }
    $drive = $Path.Substring(0, 3)
    $real = $HvShared.Drives[$drive]
    if (-not $real) {
        $real = Convert-Path -LiteralPath $drive
        $HvShared.Drives[$drive] = $real
    }
    [IO.Path]::Combine($real, $Path.Substring(3).Replace('\', "$([IO.Path]::DirectorySeparatorChar)"))
}

# The file as .NET sees it, in a folder that is there.
function Get-HvFile {
    param([string]$Path)
    $cut = $Path.LastIndexOf('\')
    $folder = Get-HvReal $Path.Substring(0, $cut)
    if (-not [IO.Directory]::Exists($folder)) {
        $folder = Convert-Path -LiteralPath $Path.Substring(0, $cut)
    }
    [IO.Path]::Combine($folder, $Path.Substring($cut + 1))
}

function Get-HvFolder {
    param([string]$Uuid)
    "$($HvShared.Facts.Root)\instances\$Uuid"
}

# Makes a file that was not there. False: it was.
function New-HvFile {
    param([string]$File, [string]$Text = '')
    try { $stream = [IO.File]::Open($File, 'CreateNew', 'Write', 'None') }
    catch [IO.IOException] {
        if ([IO.File]::Exists($File)) { return $false }
        throw
    }
    try {
        $bytes = [Text.Encoding]::UTF8.GetBytes($Text)
        $stream.Write($bytes, 0, $bytes.Length)
    }
    finally { $stream.Dispose() }
    $true
}

# Replaces a file: whoever reads it sees the old text or the new one.
function Set-HvFile {
    param([string]$File, [string]$Text)
    $new = "$File.$([guid]::NewGuid().ToString('N'))"
    [IO.File]::WriteAllText($new, $Text, (New-Object Text.UTF8Encoding($false)))
    try {
        Invoke-HvAgain {
            if ([IO.File]::Exists($File)) { [IO.File]::Replace($new, $File, [NullString]::Value) }
            else { [IO.File]::Move($new, $File) }
        }
    }
    finally { if ([IO.File]::Exists($new)) { Remove-HvFile $new } }
}

# Why something was not found, if the driver's own folders are not there any more: their drive is offline, or
# somebody has removed them. Empty: they are there, or the problem is another one.
function Get-HvFolderGone {
    param($Problem)
    $missing = @($Problem.codes | Where-Object { $_ -eq 0x80070002 -or $_ -eq 0x80070003 })
    if ($missing.Count -eq 0 -and $Problem.id -notmatch '^(PathNotFound|DriveNotFound)(,|$)') { return '' }
    $root = $HvShared.Facts.Root
    if (-not $root) { return '' }
    foreach ($name in 'index', 'instances', 'images', 'volumes', 'locks') {
        try { $there = Test-Path -LiteralPath "$root\$name" }
        catch { $there = $false }
        if (-not $there) { return "the folder $root\$name is not there any more" }
    }
    ''
}

# Holds back every other request, of whatever client, that changes the same thing.
function Lock-Hv {
    param([string]$Name)
    $file = [IO.Path]::Combine($HvShared.Facts.Locks, $Name)
    while ($true) {
        # shared with nobody, and gone when it is closed, by whatever end the process has
        try { return [IO.File]::Create($file, 1, [IO.FileOptions]::DeleteOnClose) }
        catch [IO.IOException] {
            if (-not [IO.Directory]::Exists($HvShared.Facts.Locks)) { throw }
            Wait-Hv 15
        }
    }
}

function Unlock-Hv {
    param($Lock)
    if ($null -eq $Lock) { return }
    try { if ($Lock.Begun) { Remove-HvFile $Lock.Begun } }
    finally { $Lock.Dispose() }
}

function Get-HvClaim {
    param([string]$Uuid)
    [IO.Path]::Combine($HvShared.Facts.Index, "$Uuid.claim")
}
function Get-HvFlag {
    param([string]$Uuid)
    [IO.Path]::Combine($HvShared.Facts.Index, "$Uuid.rescue")
}

# The Id of the machine that is this instance; $null without one.
function Get-HvMachineId {
    param([string]$Uuid)
    foreach ($file in [IO.Directory]::GetFiles($HvShared.Facts.Index, "$Uuid.*.vm")) {
        return ([IO.Path]::GetFileName($file)).Split('.')[1]
    }
    # from another host, and nobody has seen it since
    foreach ($file in [IO.Directory]::GetFiles($HvShared.Facts.Index, "$Uuid.*.incoming")) {
        return ([IO.Path]::GetFileName($file)).Split('.')[1]
    }
}

# VM Id -> UUID of every instance.
function Get-HvOwners {
    $owners = @{}
    foreach ($kind in '*.vm', '*.incoming') {
        foreach ($file in [IO.Directory]::GetFiles($HvShared.Facts.Index, $kind)) {
            $part = ([IO.Path]::GetFileName($file)).Split('.')
            $owners[$part[1]] = $part[0]
        }
    }
    $owners
}

function Get-HvRescued {
    $rescued = @{}
    foreach ($file in [IO.Directory]::GetFiles($HvShared.Facts.Index, '*.rescue')) {
        $rescued[([IO.Path]::GetFileName($file)).Split('.')[0]] = $true
    }
    $rescued
}

function Set-HvOwner {
    param([string]$Uuid, [string]$Id, [string]$State)
    $file = [IO.Path]::Combine($HvShared.Facts.Index, "$Uuid.$Id.vm")
    $null = New-HvFile $file $State
}

# The machine with this Id; $null if there is none. A caller without rights gets the same error
# for every Id, so the list decides.
function Get-HvMachine {
    param([string]$Id)
    try { Hyper-V\Get-VM -Id $Id }
    catch {
        $code = $_.FullyQualifiedErrorId.Split(',')[0]
        if ($code -ne 'ObjectNotFound' -and $code -ne 'InvalidParameter') { throw }
        Hyper-V\Get-VM | Where-Object { $_.Id.ToString() -eq $Id }
    }
}

# The drives of machines, of which some may be removed meanwhile.
function Get-HvDrives {
    param($Machines)
    try { return @(Hyper-V\Get-VMHardDiskDrive -VM $Machines) }
    catch { Assert-HvGone $_ }
    foreach ($vm in $Machines) {
        try { Hyper-V\Get-VMHardDiskDrive -VM $vm }
        catch { Assert-HvGone $_ }
    }
}

# Passes over the error of a machine that was removed meanwhile.
function Assert-HvGone {
    param($Problem)
    $code = $Problem.FullyQualifiedErrorId.Split(',')[0]
    if ($code -ne 'ObjectNotFound' -and $code -ne 'InvalidParameter') { throw $Problem }
}

# "Stopping" is a machine that is switched off, for a moment, or a guest that goes down by itself, for minutes. The
# first may have been paused, and has not run since: so a look waits a little for its end, and takes
# what it still sees then for a guest that runs.
function Wait-HvStopping {
    param($VM, $Looks)
    while ($null -ne $VM -and $Looks.Left -gt 0 -and $VM.State.ToString() -match '^Stopping') {
        $Looks.Left--
        Wait-Hv 25
        $VM = Get-HvMachine $VM.Id.ToString()
    }
    $VM
}

# An instance of ours with its machine.
function Find-Hv {
    param([string]$Uuid)
    $id = Get-HvMachineId $Uuid
    $vm = $null
    if ($id) { $vm = Wait-HvStopping (Get-HvMachine $id) @{ Left = 10 } }
    if ($null -eq $vm) { Stop-Hv 'InstanceNotFound' 'no instance of ours has this UUID' }
    @{
        Uuid = $Uuid
        VM = $vm
        Folder = Get-HvFolder $Uuid
        Rescued = [IO.File]::Exists((Get-HvFlag $Uuid))
    }
}

# State names of the contract. Numbers differ between versions, so names are read.
function Get-HvState {
    param($VM, [bool]$Rescued)
    $name = $VM.State.ToString()
    if ($name.EndsWith('Critical', 'Ordinal')) { $name = $name.Substring(0, $name.Length - 8) }
    switch ($name) {
        'Off' { return 'stopped' }
        'Starting' { return 'stopped' }
        'Saved' { return 'suspended' }
        'FastSaved' { return 'suspended' }
        'Paused' { return 'paused' }
        'Resuming' { return 'paused' }
    }
    if ($Rescued) { return 'rescued' }
    'running'
}

# Finds an instance, and refuses it in a state that the contract does not allow. The caller has the
# instance's lock: what a client has begun that died is ended first.
function Find-HvLegal {
    param($Arguments)
    Complete-HvMoving $Arguments.uuid
    $found = Find-HvSettled $Arguments.uuid
    Complete-HvRebuild $found
    if ([IO.File]::Exists((Get-HvIntentFile $Arguments.uuid))) { Complete-HvRevert $found }
    Complete-HvArrival $Arguments.uuid $found.VM
    $null = Complete-HvReconnect $found
    $found.State = Get-HvState $found.VM $found.Rescued
    if ($Arguments.legal -notcontains $found.State) { Stop-Hv 'InvalidState' $found.State }
    $found
}

# The same for a request that changes nothing, and has no lock.
function Find-HvSeen {
    param($Arguments)
    $found = Find-Hv $Arguments.uuid
    $found.State = Get-HvState $found.VM $found.Rescued
    if ($Arguments.legal -notcontains $found.State) { Stop-Hv 'InvalidState' $found.State }
    $found
}

# ---- the record: lines of text, of which this script reads the first words -----------------------
#
#   record JSON
#   metadata JSON
#   flavor JSON
#   image KEY                  of the root disk
#   adopted yes                somebody else has made the machine
#   own PATH                   a disk that it had then (percent-encoded)
#   snapshot ID STATE SHAPE    STATE: running, paused, none (without memory)
#   volume ID PATH JSON        ID and PATH are percent-encoded
#   nic ID ADAPTER JSON

function Get-HvRecord {
    param([string]$Folder)
    $file = Get-HvFile "$Folder\record"
    if (-not [IO.File]::Exists($file)) { return , @() }
    , @(Invoke-HvAgain { [IO.File]::ReadAllLines($file) })
}

function Set-HvRecord {
    param([string]$Folder, [string[]]$Lines)
    Set-HvFile (Get-HvFile "$Folder\record") (($Lines -join "`n") + "`n")
}

# The lines without the one that begins with these words, and with the new one instead.
function Edit-HvLines {
    param([string[]]$Lines, [string]$Start, [string]$New)
    $kept = @($Lines | Where-Object { $_ -and -not $_.StartsWith("$Start ", 'Ordinal') })
    if ($New) { $kept += $New }
    , $kept
}

function Find-HvLine {
    param([string[]]$Lines, [string]$Start)
    foreach ($line in $Lines) { if ($line.StartsWith("$Start ", 'Ordinal')) { return $line } }
}

function ConvertFrom-HvWord {
    param([string]$Word)
    [Uri]::UnescapeDataString($Word)
}

# ---- disks ---------------------------------------------------------------------------------------

# A checkpoint puts an .avhdx over each disk: this is the file below, which the machine began with.
function Get-HvBase {
    param([string]$Path)
    $seen = 0
    while ($Path -match '\.avhdx?$' -and $seen -lt 200) {
        $parent = "$((Hyper-V\Get-VHD -Path $Path).ParentPath)"
        if (-not $parent) { break }
        $Path = $parent
        $seen++
    }
    $Path
}

function Test-HvPoweredOn {
    param($VM)
    $state = Get-HvState $VM $false
    $state -ne 'stopped' -and $state -ne 'suspended'
}

function Get-HvPool {
    param([string]$Name)
    if (-not $Name -or $Name -ceq 'default') { return "$($HvShared.Facts.Root)\volumes" }
    foreach ($each in $HvShared.Facts.Pools) { if ($each.name -ceq $Name) { return $each.path } }
    Stop-Hv 'NoPool' 'there is no such pool'
}

function Get-HvSwitch {
    param([string]$Name)
    $named = @(Hyper-V\Get-VMSwitch | Where-Object { $_.Name -ceq $Name })
    if ($named.Count -eq 1) { return $named[0] }
    if ($named.Count -gt 1) { Stop-Hv 'ManySwitches' 'several virtual switches have this name' }
    Stop-Hv 'NetworkNotFound' 'there is no such virtual switch'
}
