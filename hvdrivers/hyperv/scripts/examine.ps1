# What a person who sets up a host should look at. It changes nothing. What the engine or the user's
# rights do not let it see stays $null: the driver says so.

function Invoke-HvExamine {
    param($Arguments)
    $vmhost = Hyper-V\Get-VMHost
    $facts = @{
        ticks = [DateTime]::UtcNow.Ticks
        engine = [string]$PSVersionTable.PSVersion
        root = [string]$HvShared.Facts.Root
        migration = [bool]$vmhost.VirtualMachineMigrationEnabled
        authentication = [string]$vmhost.VirtualMachineMigrationAuthenticationType
        switches = @(foreach ($each in Hyper-V\Get-VMSwitch) {
                , @([string]$each.Name, [string]$each.SwitchType) })
        pools = @(foreach ($each in $HvShared.Facts.Pools) {
                , @([string]$each.name, [string]$each.path,
                    [bool](Test-Path -LiteralPath $each.path)) })
        abandoned = @(Get-HvAbandoned)
        module = $null; build = $null; hypervisor = $null; groups = $null; quotas = $null
        writable = Test-HvWritable
    }
    try { $facts.module = [string](Get-Module -Name Hyper-V).Version }
    catch { $null = $_ }
    try {
        $facts.build = [int](Get-CimInstance -ClassName Win32_OperatingSystem).BuildNumber
        $computer = Get-CimInstance -ClassName Win32_ComputerSystem
        $facts.hypervisor = [bool]$computer.HypervisorPresent
    }
    catch { $null = $_ }
    try {
        $user = [Security.Principal.WindowsIdentity]::GetCurrent()
        $facts.groups = @(foreach ($each in $user.Groups) { [string]$each.Value })
    }
    catch { $null = $_ }
    try {
        $quotas = @{}
        foreach ($name in 'MaxMemoryPerShellMB', 'MaxShellsPerUser', 'MaxProcessesPerShell') {
            $quotas[$name] = [long](Get-Item -LiteralPath "WSMan:\localhost\Shell\$name").Value
        }
        $facts.quotas = $quotas
    }
    catch { $null = $_ }
    $facts
}

# Whether the user may make a file in the driver's folder.
function Test-HvWritable {
    $file = [IO.Path]::Combine($HvShared.Facts.Locks, "examine-$([guid]::NewGuid().ToString('N'))")
    try {
        [IO.File]::Create($file, 1, [IO.FileOptions]::DeleteOnClose).Dispose()
        $true
    }
    catch { $false }
}
