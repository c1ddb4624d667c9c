# Screens, consoles and what the guest tells of itself.

function Invoke-HvConsole {
    param($Arguments)
    $found = Find-HvSeen $Arguments
    $port = 0
    $pipe = ''
    if ($Arguments.kind -eq 'rdp') {
        $settings = @(Get-CimInstance -Namespace root/virtualization/v2 `
            -ClassName Msvm_TerminalServiceSettingData)[0]
        $port = [int]$settings.ListenerPort
    }
    else {
        foreach ($com in Hyper-V\Get-VMComPort -VM $found.VM) {
            if (-not $pipe) { $pipe = "$($com.Path)" }
        }
    }
    @{ id = $found.VM.Id.ToString(); port = $port; pipe = $pipe
        computer = [string]$found.VM.ComputerName }
}

# RGB565, little endian, a line after another.
function Invoke-HvScreen {
    param($Arguments)
    $found = Find-HvSeen $Arguments
    $id = $found.VM.Id.ToString().ToUpperInvariant()
    $space = 'root/virtualization/v2'
    $settings = @(Get-CimInstance -Namespace $space -ClassName Msvm_VirtualSystemSettingData `
        -Filter "InstanceID = 'Microsoft:$id'")[0]
    $service = @(Get-CimInstance -Namespace $space `
        -ClassName Msvm_VirtualSystemManagementService)[0]
    $picture = Invoke-CimMethod -InputObject $service -MethodName GetVirtualSystemThumbnailImage `
        -Arguments @{
            TargetSystem = $settings
            WidthPixels = [uint16]$Arguments.width
            HeightPixels = [uint16]$Arguments.height
        }
    if ([long]$picture.ReturnValue -ne 0 -or $null -eq $picture.ImageData) {
        Stop-Hv 'NoPicture' "the host gave no picture: $($picture.ReturnValue)"
    }
    @{ data = [Convert]::ToBase64String([byte[]]$picture.ImageData) }
}

function Invoke-HvAddresses {
    param($Arguments)
    $found = Find-HvSeen $Arguments
    , @(foreach ($nic in Hyper-V\Get-VMNetworkAdapter -VM $found.VM) {
        foreach ($address in $nic.IPAddresses) {
            @{ mac = [string]$nic.MacAddress; address = [string]$address }
        }
    })
}
