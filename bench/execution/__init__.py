"""From a graph of jobs to results: the scheduler, the worker, and the places where workers run."""
