"""FNC's equations (arXiv:2011.11765): the search for false negatives, and NT-Xent that leaves them out or attracts them.

A: views that are anchors, B: images of the global batch, S: views that the search uses, C: candidates (what anchors are
compared with), D: width. All rows have unit length. Candidate a * B + b is view a of image b, or that view's slow
embedding; what follows the first A * B are older images.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Mode = Literal["none", "elimination", "attraction"]
Search = Literal["all", "support", "anchor"]
Aggregate = Literal["max", "mean"]
Score = Callable[[Tensor, Tensor, Tensor], Tensor]
NEVER = float("-inf")


def unit_rows(embeddings: dict[str, Tensor], name: str) -> Tensor:
    """The embeddings whose names begin with `name`, in order and of unit length: (V, B, D)."""
    return F.normalize(torch.stack([z for key, z in embeddings.items() if key.startswith(name)]), dim=2)


def own_candidates(images: int, views: int, candidates_CD: Tensor) -> Tensor:
    """Which candidates show image b: (B, C), bool. Raises ValueError if there are fewer than A * B candidates."""
    older = len(candidates_CD) - images * views
    if older < 0:
        raise ValueError(f"expected at least {views} x {images} candidates, got {len(candidates_CD)}")
    own = torch.eye(images, dtype=torch.bool, device=candidates_CD.device)
    return F.pad(own.repeat(1, views), (0, older))


def false_negatives(search_SBD: Tensor, candidates_CD: Tensor, views: int, *, search: Search, score: Score) -> Tensor:
    """F_i of the paper for each of an image's A = `views` anchors: (A, B, C), bool.

    `search_SBD` holds all views; `search` says which of them a candidate is compared with. The anchors of an image share
    their false negatives, except in the search with the anchor alone.
    """
    own_BC = own_candidates(search_SBD.shape[1], views, candidates_CD)
    groups = {"all": [search_SBD], "support": [search_SBD[2:]], "anchor": list(search_SBD[:views, None])}[search]
    return torch.stack([score(group, candidates_CD, own_BC) for group in groups]).expand(views, -1, -1)


@torch.no_grad()
def most_similar(
    search_SBD: Tensor, candidates_CD: Tensor, own_BC: Tensor, *, aggregate: Aggregate, top_k: int | None, threshold: float | None
) -> Tensor:
    """The `top_k` best-scoring candidates among those above `threshold` (None: no such bound): (B, C), bool.

    A candidate's score is the max or mean of its cosines to the image's views. Never found are the image's own views, and
    rows of zeros (unfilled slots of a memory).
    """
    if aggregate == "mean":
        score_BC = search_SBD.mean(dim=0) @ candidates_CD.T  # cosines are linear in the view
    else:
        score_BC = reduce(torch.maximum, (z_BD @ candidates_CD.T for z_BD in search_SBD))
    score_BC = score_BC.masked_fill(own_BC | ~candidates_CD.any(dim=1), NEVER)
    found_BC = score_BC > (NEVER if threshold is None else threshold)
    if top_k is not None:
        best = score_BC.topk(min(top_k, score_BC.shape[1]), dim=1).indices
        found_BC &= torch.zeros_like(found_BC).scatter(1, best, value=True)
    return found_BC


def fnc_loss(anchors_ABD: Tensor, candidates_CD: Tensor, false_ABC: Tensor | None, *, mode: Mode, temperature: float) -> Tensor:
    """Equation 1 (none, `false_ABC` is not read), 2 (elimination) or 3 (attraction), averaged over the A * B anchors.

    Anchor (a, b) leaves out candidate a * B + b, itself; the other views of its image are positives, and of several
    positives the mean is taken. Raises ValueError if there are fewer than A * B candidates.
    """
    views, images, _ = anchors_ABD.shape
    own_BC = own_candidates(images, views, candidates_CD)
    view_C = torch.arange(len(candidates_CD), device=candidates_CD.device) // images
    losses = []
    for view, z_BD in enumerate(anchors_ABD):  # one at a time: in the paper all of them are 40,960 x 65,536
        similarity_BC = z_BD @ candidates_CD.T / temperature
        left_out_BC, positive_BC = own_BC & (view_C == view), own_BC & (view_C != view)
        if mode == "elimination" and false_ABC is not None:
            left_out_BC = left_out_BC | false_ABC[view]
        elif mode == "attraction" and false_ABC is not None:
            positive_BC = positive_BC | false_ABC[view]
        denominator_B = similarity_BC.masked_fill(left_out_BC, NEVER).logsumexp(dim=1)
        numerator_B = similarity_BC.masked_fill(~positive_BC, 0).sum(dim=1) / positive_BC.sum(dim=1)
        losses.append((denominator_B - numerator_B).mean())
    return torch.stack(losses).mean()


def same_label(false_ABC: Tensor, labels: Tensor) -> Tensor:
    """Percentage of the false negatives in this batch that share the anchor's label (0 if there are none).

    A diagnostic: the paper finds about 40 % on ImageNet.
    """
    views = false_ABC.shape[0]
    found_ABC = false_ABC[..., : views * len(labels)]
    right_ABC = found_ABC & (labels[:, None] == labels.repeat(views))
    return 100 * right_ABC.sum() / found_ABC.sum().clamp_min(1)
