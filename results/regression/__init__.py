"""Measured against what was measured before: references, kept results, the verdict on each cell."""
