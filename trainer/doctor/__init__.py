"""What became of a run, told from what it left on the disk. Reads files and knows words; needs no torch."""
