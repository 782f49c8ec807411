"""The whole graph as jobs of Slurm, which go on without this process."""
