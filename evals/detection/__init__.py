"""Detectron2 under a frozen contract: configuration, data, networks, training, scores. Two protocols read it."""
