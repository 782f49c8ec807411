"""Published tables as data, and the way from finished jobs to a regenerated table."""
