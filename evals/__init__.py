"""One protocol, one file: Config, METRICS, RECIPES, evaluate (see bench/contracts.py).

Found by file name; no list to edit.
"""
