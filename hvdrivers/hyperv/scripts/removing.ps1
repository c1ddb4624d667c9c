# Files and folders that others use at the same moment.
#
# Windows lets nobody remove or replace a file that another program has open: a client that reads it, a
# backup, a scanner. Hyper-V, or a request of a client that has died, may put a file into a folder between
# the listing of the folder and its removal. A file that was deleted while somebody had it open keeps its
# name until he closes it. All of that passes.

# Does something with files. While a file is in use, or a folder does not get empty, it is done again, for
# five seconds, or until the deadline. Then the last error is the answer.
function Invoke-HvAgain {
    param([scriptblock]$Steps)
    $end = [Math]::Min($HvDeadline, [DateTime]::UtcNow.AddSeconds(5).Ticks)
    while ($true) {
        try { return & $Steps }
        catch {
            if (-not (Test-HvPasses $_) -or [DateTime]::UtcNow.Ticks -ge $end) { throw }
        }
        Start-Sleep -Milliseconds 50
    }
}

# The codes: ERROR_ACCESS_DENIED (also for a name that is about to go), ERROR_SHARING_VIOLATION,
# ERROR_LOCK_VIOLATION, ERROR_DIR_NOT_EMPTY.
function Test-HvPasses {
    param($Record)
    $passing = 0x80070005, 0x80070020, 0x80070021, 0x80070091
    foreach ($code in (ConvertTo-HvError $Record).codes) { if ($passing -contains $code) { return $true } }
    $false
}

# A file that is not there is removed already.
function Remove-HvFile {
    param([string]$File)
    Invoke-HvAgain { [IO.File]::Delete($File) }
}

# A file, or a folder with all that is in it.
function Remove-HvTree {
    param([string]$Path)
    Invoke-HvAgain {
        if (-not (Test-Path -LiteralPath $Path)) { return }
        try { Remove-Item -LiteralPath $Path -Recurse -Force -Confirm:$false }
        catch {
            # another one has removed it, whole or in part
            if (Test-Path -LiteralPath $Path) { throw }
        }
    }
}
