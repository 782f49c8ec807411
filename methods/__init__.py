"""One paper, one file: Config, loss, Method, RECIPES (see bench/contracts.py). Found by file name; no list to edit."""
