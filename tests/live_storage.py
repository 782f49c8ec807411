"""Bytes of the tensors that live at once, counted operation by operation: the memory that a GPU would need."""

from __future__ import annotations

from bench.costs.living import peak_bytes

__all__ = ["peak_bytes"]
