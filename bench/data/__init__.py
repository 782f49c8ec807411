"""Data sets, augmentations, and the batches that the training loop and the evaluations read."""
