"""Weights that were not trained here: finding a file, knowing its layout, reading TensorFlow."""
