"""The engine: specs, job graph, run folders, executors, training loop. Knows no paper, no table, no HTML."""

from pathlib import Path

from bench import old_names

__version__ = "0.2.0"
ROOT = Path(__file__).resolve().parents[1]  # holds the five packages: a checkout, a snapshot or site-packages
old_names.install()  # before anything of a user is imported
