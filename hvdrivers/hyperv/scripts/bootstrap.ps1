$ErrorActionPreference='Stop';$ProgressPreference='SilentlyContinue';$WarningPreference='SilentlyContinue'
$bytes=[Convert]::FromBase64String([Console]::In.ReadLine())
$stream=New-Object IO.Compression.GZipStream((New-Object IO.MemoryStream(,$bytes)),[IO.Compression.CompressionMode]::Decompress)
$text=(New-Object IO.StreamReader($stream,[Text.Encoding]::UTF8)).ReadToEnd()
. ([scriptblock]::Create($text))
Start-HvLoop $text
