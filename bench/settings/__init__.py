"""What bench.toml may say, as data: the place, what is asked of Slurm, what is changed in all recipes.

Reads no file.
"""
