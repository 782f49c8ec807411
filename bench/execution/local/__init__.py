"""Workers on this machine: a queue over its cores or GPUs, forked where that is possible."""
