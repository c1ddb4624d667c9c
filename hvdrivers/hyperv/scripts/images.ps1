# The image cache: ROOT\images\KEY.vhdx, which is there whole or not at all.

function Get-HvImage {
    param([string]$Key)
    "$($HvShared.Facts.Root)\images\$Key.vhdx"
}

# Begins an upload: a file of this size, of zeroes.
function Invoke-HvImageBegin {
    param($Arguments)
    if (Test-Path -LiteralPath (Get-HvImage $Arguments.key)) { return @{ there = $true } }
    $folder = "$($HvShared.Facts.Root)\images"
    Clear-HvUploads $Arguments.quiet
    $path = "$folder\$($Arguments.key).$($Arguments.nonce).part"
    $stream = [IO.File]::Open((Get-HvFile $path), 'CreateNew', 'Write', 'None')
    try { $stream.SetLength($Arguments.size) }
    finally { $stream.Dispose() }
    @{ there = $false }
}

# What clients have left that died: uploads that nobody has written to for so many seconds.
function Clear-HvUploads {
    param([double]$Quiet)
    foreach ($upload in (Get-HvUploads).Values) {
        if ($upload.age -gt $Quiet -and -not (Test-HvUploadUsed $upload)) {
            foreach ($left in $upload.paths) { Remove-HvTree $left }
        }
    }
}

# Uploads that are not complete, by the name KEY.NONCE: those under way, and what clients have left
# that died in an upload or an eviction. Ages in seconds, by this host's clock.
function Get-HvUploads {
    $folder = "$($HvShared.Facts.Root)\images"
    $pattern = '^([a-z0-9-]+)\.([0-9a-f]{16})\.(?:made\.)?part(?:\.vhdx?)?$'
    $found = @{}
    foreach ($item in Get-ChildItem -LiteralPath $folder -File) {
        $match = [regex]::Match($item.Name, $pattern)
        if (-not $match.Success) { continue }
        $name = "$($match.Groups[1].Value).$($match.Groups[2].Value)"
        if (-not $found.ContainsKey($name)) {
            $found[$name] = @{
                name = $name; key = $match.Groups[1].Value; size = [long]0
                written = [DateTime]::MinValue; paths = New-Object System.Collections.ArrayList
            }
        }
        $upload = $found[$name]
        $upload.size += [long]$item.Length
        if ($item.LastWriteTimeUtc -gt $upload.written) {
            $upload.written = $item.LastWriteTimeUtc
            $upload.age = ([DateTime]::UtcNow - $item.LastWriteTimeUtc).TotalSeconds
        }
        [void]$upload.paths.Add("$folder\$($item.Name)")
    }
    $found
}

# Whether an upload is the image of an eviction that died, and disks are based on it, or may be.
function Test-HvUploadUsed {
    param($Upload)
    $path = Get-HvImage $Upload.key
    if (Test-Path -LiteralPath $path) { return $false }
    $used = Get-HvImageUsers
    [bool]($used[$path.ToLowerInvariant()] -or $used['?'])
}

# One piece: raw deflate of the bytes from this offset on.
function Invoke-HvImageWrite {
    param($Arguments)
    $path = "$($HvShared.Facts.Root)\images\$($Arguments.key).$($Arguments.nonce).part"
    $packed = New-Object IO.MemoryStream(, [Convert]::FromBase64String($Arguments.data))
    $plain = New-Object IO.Compression.DeflateStream(
        $packed, [IO.Compression.CompressionMode]::Decompress)
    $stream = [IO.File]::Open((Get-HvFile $path), 'Open', 'Write', 'ReadWrite')
    try {
        [void]$stream.Seek($Arguments.offset, 'Begin')
        $plain.CopyTo($stream)
    }
    finally {
        $stream.Dispose()
        $plain.Dispose()
    }
}

# What a task of .NET gives, within the budget. A server may be silent for 30 seconds.
function Wait-HvTask {
    param($Task)
    $end = [DateTime]::UtcNow.AddSeconds(30)
    while (-not ([IAsyncResult]$Task).AsyncWaitHandle.WaitOne(50)) {
        Assert-HvBudget
        if ([DateTime]::UtcNow -ge $end) { Stop-Hv 'Download' 'the server is silent' }
    }
    $Task.GetAwaiter().GetResult()
}

# The host fetches the content itself, and hashes what it writes down. A redirect is refused: where it
# leads to is not what the caller has named. Errors do not show the URL, which may be signed.
function Invoke-HvImagePull {
    param($Arguments)
    if (Test-Path -LiteralPath (Get-HvImage $Arguments.key)) { return @{ there = $true } }
    Clear-HvUploads $Arguments.quiet
    $part = "$($HvShared.Facts.Root)\images\$($Arguments.key).$($Arguments.nonce).part"
    switch ($Arguments.algorithm) {
        'sha256' { $hash = [Security.Cryptography.SHA256]::Create() }
        'sha384' { $hash = [Security.Cryptography.SHA384]::Create() }
        'sha512' { $hash = [Security.Cryptography.SHA512]::Create() }
    }
    # Windows PowerShell 5.1 begins with what is out of use by now
    [Net.ServicePointManager]::SecurityProtocol = [Net.SecurityProtocolType]::Tls12
    $request = $null
    $response = $null
    $target = $null
    $length = 0L
    try {
        $request = [Net.WebRequest]::Create([Uri]$Arguments.url)
        $request.AllowAutoRedirect = $false
        try { $response = Wait-HvTask $request.GetResponseAsync() }
        catch {
            if ($_.FullyQualifiedErrorId -match '^Hv\.') { throw }
            Stop-Hv 'Download' 'the server does not answer the host, or refuses the image'
        }
        if ([int]$response.StatusCode -ne 200) {
            Stop-Hv 'Download' "the server answered the host with $([int]$response.StatusCode)"
        }
        $source = $response.GetResponseStream()
        $target = [IO.File]::Open((Get-HvFile $part), 'CreateNew', 'Write', 'Read')
        $buffer = New-Object byte[] (1MB)
        while ($true) {
            Assert-HvBudget
            try { $count = Wait-HvTask $source.ReadAsync($buffer, 0, $buffer.Length) }
            catch {
                if ($_.FullyQualifiedErrorId -match '^Hv\.') { throw }
                Stop-Hv 'Download' 'the download broke off'
            }
            if ($count -le 0) { break }
            $length += $count
            if ($length -gt $Arguments.most) { Stop-Hv 'ImageRefused' 'the image is too large' }
            [void]$hash.TransformBlock($buffer, 0, $count, $null, 0)
            $target.Write($buffer, 0, $count)
        }
        [void]$hash.TransformFinalBlock($buffer, 0, 0)
        $found = [BitConverter]::ToString($hash.Hash).Replace('-', '').ToLowerInvariant()
        if ($found -cne $Arguments.digest) {
            Stop-Hv 'ImageRefused' 'the content has another checksum'
        }
        @{ there = $false; length = $length }
    }
    finally {
        # it may still wait for a server that is silent
        if ($null -ne $request) { $request.Abort() }
        if ($null -ne $target) { $target.Dispose() }
        if ($null -ne $response) { $response.Dispose() }
        $hash.Dispose()
    }
}

# The upload is complete: make a dynamic VHDX of it, and give that its name.
function Invoke-HvImageEnd {
    param($Arguments)
    $folder = "$($HvShared.Facts.Root)\images"
    $part = "$folder\$($Arguments.key).$($Arguments.nonce).part"
    $source = "$part.$($Arguments.format)"
    $final = Get-HvImage $Arguments.key
    $made = "$folder\$($Arguments.key).$($Arguments.nonce).made.part.vhdx"
    try {
        Move-Item -LiteralPath $part -Destination $source
        if ($Arguments.check) {
            # nobody has looked into it so far: it must name no other file of the host
            try { $disk = Hyper-V\Get-VHD -Path $source }
            catch { Stop-Hv 'ImageRefused' "it is no $($Arguments.format) that the host reads" }
            if ("$($disk.ParentPath)" -or "$($disk.VhdType)" -eq 'Differencing') {
                Stop-Hv 'ImageRefused' 'it is based on another file'
            }
        }
        if ($Arguments.format -eq 'vhdx') { $made = $source }
        else {
            Open-Hv { Hyper-V\Convert-VHD -Path $source -DestinationPath $made -VHDType Dynamic }
        }
        Assert-HvBudget
        # File.Move refuses a name that is taken: somebody else was faster
        try { [IO.File]::Move((Get-HvFile $made), (Get-HvFile $final)) }
        catch [IO.IOException] {
            if (-not (Test-Path -LiteralPath $final)) { throw }
        }
    }
    finally {
        foreach ($path in $part, $source, $made) { Remove-HvTree $path }
    }
    Read-HvImage $Arguments.key
}

function Invoke-HvImageDrop {
    param($Arguments)
    $part = "$($HvShared.Facts.Root)\images\$($Arguments.key).$($Arguments.nonce)"
    foreach ($path in "$part.part", "$part.part.vhd", "$part.part.vhdx", "$part.made.part.vhdx") {
        Remove-HvTree $path
    }
}

function Read-HvImage {
    param([string]$Key)
    $disk = Hyper-V\Get-VHD -Path (Get-HvImage $Key)
    @{ key = $Key; size = [long]$disk.Size; file = [long]$disk.FileSize }
}

function Invoke-HvImages {
    param($Arguments)
    $found = New-Object System.Collections.ArrayList
    $used = Get-HvImageUsers
    foreach ($item in Get-ChildItem -LiteralPath "$($HvShared.Facts.Root)\images" -File) {
        if ($item.Name -cnotmatch '^[a-z0-9-]{1,80}\.vhdx$') { continue }
        $key = $item.Name.Substring(0, $item.Name.Length - 5)
        # evicted meanwhile, or no disk at all
        try { $image = Read-HvImage $key }
        catch { continue }
        $image.used = [bool]$used[(Get-HvImage $key).ToLowerInvariant()]
        # a disk that cannot be read may be based on any of them
        if (-not $image.used -and $used['?']) { $image.used = $null }
        [void]$found.Add($image)
    }
    $begin = [DateTime]::new(1970, 1, 1, 0, 0, 0, [DateTimeKind]::Utc)
    foreach ($upload in (Get-HvUploads).Values) {
        [void]$found.Add(@{
                key = $upload.name; file = $upload.size; partial = $true
                written = ($upload.written - $begin).TotalSeconds
            })
    }
    , $found.ToArray()
}

# The parents of all differencing disks in our folders, and of all disks of machines. Under '?' a disk
# that cannot be read, if there is one.
function Get-HvImageUsers {
    $used = @{}
    $never = @(Get-HvNeverArrived)
    $dead = @($never + @(Get-HvAbandoned) | ForEach-Object { "$(Get-HvFolder $_)\" })
    $folders = @("$($HvShared.Facts.Root)\instances", "$($HvShared.Facts.Root)\volumes")
    foreach ($pool in $HvShared.Facts.Pools) { $folders += $pool.path }
    foreach ($folder in $folders) {
        if (-not (Test-Path -LiteralPath $folder)) { continue }
        foreach ($item in Get-ChildItem -LiteralPath $folder -Recurse -File) {
            # root.new and root.old are of a rebuild
            $pattern = '^(root(\.new|\.old)?|rescue|v-[a-z0-9_-]*-root|.*root_[^\\]*)\.a?vhdx$'
            if ($item.Name -notmatch $pattern) { continue }
            $path = Get-HvWindowsPath $folder $item
            if (@($dead | Where-Object { $path.StartsWith($_, 'OrdinalIgnoreCase') })) { continue }
            try { $parent = "$((Hyper-V\Get-VHD -Path $path).ParentPath)" }
            catch {
                if (Test-Path -LiteralPath $path) { $used['?'] = $path }
                continue
            }
            if ($parent) { $used[$parent.ToLowerInvariant()] = $true }
        }
    }
    # a machine that is on its way here is based on it
    foreach ($file in [IO.Directory]::GetFiles($HvShared.Facts.Index, '*.incoming')) {
        if ($never -ccontains ([IO.Path]::GetFileName($file)).Split('.')[0]) { continue }
        try { $parent = [IO.File]::ReadAllText($file).Split("`n")[0].Trim() }
        catch [IO.IOException] { continue }
        if ($parent) { $used[$parent.ToLowerInvariant()] = $true }
    }
    # disks of whatever machine, wherever they are
    foreach ($path in (Get-HvParents).Keys) { $used[$path] = $true }
    $used
}

# The path of an item below a folder as scripts write it.
function Get-HvWindowsPath {
    param([string]$Folder, $Item)
    $real = Convert-Path -LiteralPath $Folder
    $rest = $Item.FullName.Substring($real.Length).Replace('/', '\').TrimStart('\')
    "$Folder\$rest"
}

# Removes an upload that nobody has written to for a while.
function Invoke-HvEvictUpload {
    param($Arguments)
    $upload = (Get-HvUploads)[$Arguments.name]
    if (-not $upload) { return }
    if ($upload.age -lt $Arguments.still) {
        $age = [int][Math]::Max(0, $upload.age)
        Stop-Hv 'UploadAlive' "the upload was last written to $age seconds ago, and may be alive"
    }
    if (Test-HvUploadUsed $upload) { Stop-Hv 'DiskInUse' 'a disk is based on the image' }
    foreach ($path in $upload.paths) { Remove-HvTree $path }
}

function Assert-HvImageUnused {
    param([string]$Path)
    $used = Get-HvImageUsers
    if ($used[$Path.ToLowerInvariant()]) { Stop-Hv 'DiskInUse' 'a disk is based on the image' }
    if ($used['?']) {
        Stop-Hv 'DiskInUse' "$($used['?']) cannot be read, and may be based on the image"
    }
}

function Invoke-HvEvict {
    param($Arguments)
    $path = Get-HvImage $Arguments.key
    if (-not (Test-Path -LiteralPath $path)) { return }
    Clear-HvNeverArrived
    Clear-HvAbandoned
    Assert-HvImageUnused $path
    # nobody finds it under another name: a disk that is made now fails, and one that was made
    # meanwhile is seen
    $nonce = [guid]::NewGuid().ToString('N').Substring(0, 16)
    $aside = "$($HvShared.Facts.Root)\images\$($Arguments.key).$nonce.part.vhdx"
    Move-Item -LiteralPath $path -Destination $aside
    $gone = $false
    try {
        Assert-HvImageUnused $path
        Remove-HvTree $aside
        $gone = $true
    }
    finally {
        if (-not $gone) { Move-Item -LiteralPath $aside -Destination $path }
    }
}
