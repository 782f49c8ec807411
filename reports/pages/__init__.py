"""Pages of the report, a file each."""
