"""torch.compile for an encoder: as a whole, or block by block where activations are computed twice.

It lives on the encoder's call alone: parameters keep their names in checkpoints, and slow copies of the encoder stay as
they are. A compiler cannot follow checkpointing with statistics that move once, so that goes around compiled blocks.
Batch norms over ranks and groups are traced as plain operations and collectives; no norm breaks the graph.
"""

from __future__ import annotations

import torch
from torch import nn

from bench.training.recompute import blocks_of

# All blocks of a class share one cache: at most 8 shapes in a ResNet, each forward and on the way back.
_GRAPHS = 64


def compile_encoder(encoder: nn.Module, *, by_block: bool) -> None:
    """In place, before blocks are made to compute their activations twice; the first pass compiles."""
    config = torch._dynamo.config
    # DDP would cut graphs of more than a MiB of parameters to send gradients early. What computes activations a second
    # time runs outside its forward, is compiled without the cut, and keeps another number of tensors: an error.
    config.optimize_ddp = False
    if not by_block:
        encoder.compile()
        return
    name = "recompile_limit" if hasattr(config, "recompile_limit") else "cache_size_limit"
    setattr(config, name, max(_GRAPHS, getattr(config, name)))
    for block in blocks_of(encoder):
        block.forward = torch.compile(block.forward)
