"""One file a command: flags in, one call, a report out."""
