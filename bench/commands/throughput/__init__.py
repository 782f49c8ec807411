"""`bench doctor --throughput`."""
