"""What happened to a run, from what it left on disk. Reads files and writes sentences; needs no torch."""
