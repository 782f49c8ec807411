"""Gradient caching: the exact loss of a large batch with the memory of a sub-batch (arXiv:2101.06983).

Pass 1 embeds the sub-batches without keeping activations. The loss of the whole (gathered) batch gives the gradient of
every embedding. Pass 2 embeds each sub-batch again, now with activations, and pushes its share of that gradient back.
The result is the gradient of the plain large batch wherever the network treats images one by one; batch norm sees one
sub-batch (of all ranks) at a time, which is why the number of chunks is part of the job's identity.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from bench.contracts import Batch
from bench.errors import BenchError
from bench.training.ranks import gather
from bench.training.stopwatch import Stopwatch

Embeddings = dict[str, Tensor]


def cached_backward(
    network: nn.Module,
    embed: Callable[[Batch], Embeddings],
    loss: Callable[[Embeddings, Tensor], dict[str, Tensor]],
    batch: Batch,
    *,
    chunks: int,
    seed: int,
    scaled: Callable[[Tensor], Tensor] = lambda loss: loss,
    watch: Stopwatch | None = None,
) -> tuple[dict[str, Tensor], Embeddings]:
    """Accumulate the gradient of the whole batch's loss into the parameters; returns losses and embeddings.

    `network` is what `embed` runs, wrapped in DDP or not. Both passes of a sub-batch draw the same random numbers.
    `scaled` makes of the loss what the gradient is taken of (fp16). For the `watch` pass 1 and the loss are "forward";
    pass 2 counts as "backward", which the caller ends.
    """
    parts = list(split(batch, chunks))
    with torch.no_grad(), _frozen_statistics(network):
        found = [_seeded(embed, part, seed + number) for number, part in enumerate(parts)]
    leaves = {name: torch.cat([f[name].float() for f in found]).requires_grad_() for name in found[0]}
    embeddings = {name: gather(leaf) for name, leaf in leaves.items()}
    losses = loss(embeddings, gather(batch.labels))
    if watch is not None:
        watch.end("forward")
    scaled(losses["loss"]).backward()  # type: ignore[no-untyped-call]
    gradients = {name: leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}
    start = 0
    for number, part in enumerate(parts):
        rows = slice(start, start + len(part.labels))
        start = rows.stop
        ddp = isinstance(network, DistributedDataParallel)
        with network.no_sync() if ddp and number + 1 < len(parts) else nullcontext():  # type: ignore[operator]
            again = _seeded(embed, part, seed + number)
            wanted = [name for name in gradients if again[name].requires_grad]
            torch.autograd.backward(
                [again[name].float() for name in wanted], [gradients[name][rows] for name in wanted]
            )
    return losses, embeddings


def split(batch: Batch, chunks: int) -> Iterator[Batch]:
    """Equal consecutive parts of a batch. Raises BenchError when it does not divide: no image is left out unseen."""
    each, rest = divmod(len(batch.labels), chunks)
    if rest or not each:
        raise BenchError(
            f"the {len(batch.labels)} images of a rank do not divide into {chunks} chunks: choose ranks so that "
            "batch / (ranks x chunks) is a whole number (`bench plan` names them)."
        )
    for number in range(chunks):
        rows = slice(number * each, (number + 1) * each)
        yield Batch(views=[view[rows] for view in batch.views], labels=batch.labels[rows], indices=batch.indices[rows])


def _seeded(embed: Callable[[Batch], Embeddings], part: Batch, seed: int) -> Embeddings:
    torch.manual_seed(seed)
    return embed(part)


@contextmanager
def _frozen_statistics(network: nn.Module) -> Iterator[None]:
    """Batch norms use the batch but do not move their running statistics: pass 2 moves them once."""
    norms = [module for module in network.modules() if isinstance(getattr(module, "momentum", None), float)]
    before = [module.momentum for module in norms]
    for module in norms:
        module.momentum = 0.0  # type: ignore[assignment]
    try:
        yield
    finally:
        for module, momentum in zip(norms, before, strict=True):
            module.momentum = momentum
