"""The engine: specs, job graph, run folders, executors, training loop. Knows no paper, no table, no HTML."""

__version__ = "0.1.0"
