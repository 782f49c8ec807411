"""The mathematics of DirectCLR's linear networks (arXiv:2110.09348, sections 4 and 5): losses, gradients, alignment.

N(0, I) data, z = W x with W the product of one or two square layers. B: batch, D: width of data and embedding.
"""

from __future__ import annotations

import torch
from torch import Tensor

DECAY = 0.35  # of the initial singular values of two layers, exp(-0.35 i)


def initial(layers: int, width: int, draw: torch.Generator) -> Tensor:
    """Weights of a layer.

    One layer: uniform in +-1/sqrt(D), torch's own. Two: random directions, singular values exp(-0.35 i).
    """
    uniform = torch.rand(width, width, generator=draw)
    if layers == 1:
        return uniform.mul(2).sub(1).div(width**0.5)
    u, _, vt = torch.linalg.svd(uniform)
    made: Tensor = u * torch.exp(-DECAY * torch.arange(width)) @ vt
    return made


def code_gradient(weight: Tensor, xa_BD: Tensor, xb_BD: Tensor, *, temperature: float) -> Tensor:
    """Gradient by W of the mean cross entropy of z_i . z'_j / temperature against j = i.

    Written out, as is `paper_gradient`: at this size autograd would take most of the time.
    """
    za, zb = xa_BD @ weight.T, xb_BD @ weight.T
    error_BB = torch.softmax(za @ zb.T / temperature, dim=1)
    error_BB.diagonal().sub_(1)
    return ((error_BB @ zb).T @ xa_BD + (error_BB.T @ za).T @ xb_BD) / (len(za) * temperature)


def paper_gradient(weight: Tensor, xa_BD: Tensor, xb_BD: Tensor) -> Tensor:
    """Gradient by W of the mean of the paper's loss: -W X / B (lemma 2)."""
    s0, s1 = weighted_covariances(weight, xa_BD, xb_BD)
    return weight @ (s1 - s0) / len(xa_BD)


def layer_gradients(weights: list[Tensor], gradient: Tensor) -> list[Tensor]:
    """Gradients by each of one or two layers from the one by their product: W2^T G and G W1^T (section 5.1)."""
    if len(weights) == 1:
        return [gradient]
    first, last = weights
    return [last.T @ gradient, gradient @ first.T]


def weighted_covariances(weight: Tensor, xa_BD: Tensor, xb_BD: Tensor) -> tuple[Tensor, Tensor]:
    """S0 and S1, covariances of data and augmentation: dL/dW = -W X with X = S0 - S1, the loss summed over the batch.

    The loss is -sum_i log(a_ii), a_i the softmax of -|z_i - z_j|^2 / 2 over j, with z'_i in the place of j = i.
    S0 = sum_ij a_ij (x_i - x_j)(x_i - x_j)^T, S1 = sum_i (1 - a_ii)(x'_i - x_i)(x'_i - x_i)^T.
    """
    za, zb = xa_BD @ weight.T, xb_BD @ weight.T
    square = za.square().sum(dim=1)
    distance_BB = square[:, None] + square - 2 * za @ za.T
    distance_BB.diagonal().copy_((za - zb).square().sum(dim=1))
    a_BB = torch.softmax(-distance_BB / 2, dim=1)
    missed_B = 1 - a_BB.diagonal()
    a_BB.diagonal().zero_()
    pair_BB = a_BB + a_BB.T
    s0 = (xa_BD * pair_BB.sum(dim=1)[:, None]).T @ xa_BD - xa_BD.T @ pair_BB @ xa_BD
    gap = xb_BD - xa_BD
    return s0, (gap * missed_B[:, None]).T @ gap


def embedding_spectrum(weights: list[Tensor]) -> Tensor:
    """Singular values of the covariance of the embedding of N(0, I): those of the product, squared."""
    product = weights[0].double()
    for weight in weights[1:]:
        product = weight.double() @ product
    values: Tensor = torch.linalg.svdvals(product)
    return values.square()


def alignment_matrix(first: Tensor, last: Tensor) -> Tensor:
    """|V2^T U1|: rows are right singular vectors of the last layer, columns left ones of the first (section 5)."""
    matrix: Tensor = torch.linalg.svd(last.double())[2] @ torch.linalg.svd(first.double())[0]
    return matrix.abs()


def block_alignment(matrix: Tensor, kept: int) -> float:
    """Share of the squared alignment matrix within its first `kept` and its other directions.

    It is 1 if both layers keep the same ones. Unlike the diagonal it does not ask how equal singular values are
    ordered.
    """
    square = matrix.square()
    return float((square[:kept, :kept].sum() + square[kept:, kept:].sum()) / square.sum())
