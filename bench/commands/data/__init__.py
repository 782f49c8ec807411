"""`bench data`."""
