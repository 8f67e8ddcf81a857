"""What `lockstep COMMAND` does, one file a command. Imported by `__main__` alone, and only when asked for."""
