"""FNC: boosting contrastive learning with false negative cancellation (arXiv:2011.11765, WACV 2022).

NT-Xent also repels images that show what the anchor shows. Such false negatives are searched for by their similarity to
views of the anchor's image, then left out (elimination, equation 2) or attracted (equation 3). The first two views are
the main ones, the rest the support views.
The `paper` recipe is the released code (google-research/fnc), which made the headline numbers. Unlike the paper's text:
- it has attraction only, and searches with ALL views of the image; the text with the support views;
- multi-crop: every view is an anchor and a positive of the others; the 100-epoch studies are also without;
- a slow encoder fills a memory; anchors meet the memory only. It begins as zeros, kept here: an empty slot adds exp(0)
  to the denominator in the first ceil(memory / views) - 1 steps. It is never a false negative;
- the loss is twice the mean over anchors (`loss_factor`): it shifts the rate of biases and norms, and weight decay;
- RandAugment as the code that it imports acts, not as it reads: two operations on every view, contrast around 196 at
  224 px; the studies name SimCLR's pipeline only.
- colours are tf.image's with brightness multiplied, and crops tf.image's, as in its data_util.py; in the studies too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial, reduce
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.contracts import Batch, Facts, Recipe
from bench.errors import BenchError, unknown_name
from bench.spec import Optim, Pretrain
from methods.parts import differences
from methods.parts.heads import mlp
from methods.parts.momentum import move_towards, slow_copy
from methods.parts.views import cifar, digits, tensorflow_view


@dataclass(frozen=True, kw_only=True)
class Config:
    """The paper's symbols in words; the defaults are the flags of the released code."""

    mode: Mode = "attraction"
    search: Search = "all"  # views of the anchor's image that a negative is compared with; "anchor": the anchor alone
    aggregate: Aggregate = "max"  # over these views
    top_k: int | None = 10  # most similar negatives, None: any number
    threshold: float | None = 0.7  # cosine that they must exceed, None: none
    multi_crop: bool = True  # support views are anchors and positives too; else they only serve the search
    memory: int = 16  # in batches; 0: no memory and no slow encoder, anchors meet the batch itself
    momentum: float = 0.999  # of the slow encoder
    temperature: float = 0.1
    loss_factor: float = 1.0
    hidden: int = 2048  # projector of SimCLR v2: 2048 -> 2048 -> 2048 -> 128
    output: int = 128
    VERSION: int = field(default=1, init=False)

    def check(self, pretrain: Pretrain) -> None:
        """Known names, enough views and images, bounds that can be met."""
        for name, allowed in (("mode", Mode), ("search", Search), ("aggregate", Aggregate)):
            if getattr(self, name) not in get_args(allowed):
                raise unknown_name(f"fnc {name}", getattr(self, name), get_args(allowed))
        views, finds = len(pretrain.views), self.mode != "none"
        anchors = views if self.multi_crop else 2
        most = anchors * (pretrain.batch_size - 1)
        top_k = most if self.top_k is None else self.top_k
        for wrong, message in (
            (views < 2, f"needs 2 main views and any number of support views, found {views} in all"),
            (
                finds and self.search == "support" and views == 2,
                "search='support' needs support views after the 2 main ones, found none",
            ),
            (
                finds and self.top_k is None and self.threshold is None,
                f"{self.mode} needs top_k, threshold or both, found neither",
            ),
            (
                finds and not 1 <= top_k <= most,
                f"top_k is {top_k}, expected 1 to {most}, the negatives in a batch of {pretrain.batch_size}",
            ),
            (
                finds and not -1 <= (self.threshold or 0) < 1,
                f"threshold is {self.threshold}, expected a cosine from -1 to below 1",
            ),
            (
                self.memory < 0 or 0 < self.memory < anchors,
                f"memory is {self.memory} batches, expected 0 or at least the {anchors} of one step",
            ),
            (not 0 <= self.momentum < 1, f"momentum is {self.momentum}, expected 0 to below 1"),
            (self.temperature <= 0, f"temperature is {self.temperature}, expected more than 0"),
        ):
            if wrong:
                raise BenchError(f"fnc: {message}.")


# -- The search for false negatives, and NT-Xent that leaves them out or attracts them.
#
# A: views that are anchors, B: images of the global batch, S: views that the search uses, C: candidates (what anchors
# are compared with), D: width. All rows have unit length. Candidate a * B + b is view a of image b, or that view's slow
# embedding; what follows the first A * B are older images.

Mode = Literal["none", "elimination", "attraction"]
Search = Literal["all", "support", "anchor"]
Aggregate = Literal["max", "mean"]
Score = Callable[[Tensor, Tensor, Tensor], Tensor]
_NEVER = float("-inf")


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

    `search_SBD` holds all views; `search` says which of them a candidate is compared with. The anchors of an image
    share their false negatives, except in the search with the anchor alone.
    """
    own_BC = own_candidates(search_SBD.shape[1], views, candidates_CD)
    groups = {"all": [search_SBD], "support": [search_SBD[2:]], "anchor": list(search_SBD[:views, None])}[search]
    return torch.stack([score(group, candidates_CD, own_BC) for group in groups]).expand(views, -1, -1)


@torch.no_grad()
def most_similar(
    search_SBD: Tensor,
    candidates_CD: Tensor,
    own_BC: Tensor,
    *,
    aggregate: Aggregate,
    top_k: int | None,
    threshold: float | None,
) -> Tensor:
    """The `top_k` best-scoring candidates among those above `threshold` (None: no such bound): (B, C), bool.

    A candidate's score is the max or mean of its cosines to the image's views. Never found are the image's own views,
    and rows of zeros (unfilled slots of a memory).
    """
    if aggregate == "mean":
        score_BC = search_SBD.mean(dim=0) @ candidates_CD.T  # cosines are linear in the view
    else:
        score_BC = reduce(torch.maximum, (z_BD @ candidates_CD.T for z_BD in search_SBD))
    score_BC = score_BC.masked_fill(own_BC | ~candidates_CD.any(dim=1), _NEVER)
    found_BC = score_BC > (_NEVER if threshold is None else threshold)
    if top_k is not None:
        best = score_BC.topk(min(top_k, score_BC.shape[1]), dim=1).indices
        found_BC &= torch.zeros_like(found_BC).scatter(1, best, value=True)
    return found_BC


def fnc_loss(
    anchors_ABD: Tensor, candidates_CD: Tensor, false_ABC: Tensor | None, *, mode: Mode, temperature: float
) -> Tensor:
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
        denominator_B = similarity_BC.masked_fill(left_out_BC, _NEVER).logsumexp(dim=1)
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


class Method(nn.Module):
    """Encoder and projector; with a memory also their slow copies."""

    memory: Tensor  # (memory * batch, D), newest first; a buffer, so that checkpoints hold it

    def __init__(self, config: Config, encoder: nn.Module, facts: Facts) -> None:
        super().__init__()
        self.config = config
        self.encoder = encoder
        self.projector = mlp(
            (facts.feature_dim, config.hidden, config.hidden, config.output), last_norm=True, last_shift=False
        )
        self.slow = slow_copy(nn.Sequential(encoder, self.projector)) if config.memory else None
        if config.memory:
            self.register_buffer("memory", torch.zeros(config.memory * facts.batch_size, config.output))

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        """view0, ... and slow0, ...: anchors and slow views in one pass each, support views without gradient."""
        anchors = batch.views if self.config.multi_crop else batch.views[:2]
        found = _named("view", self.projector(self.encoder(torch.cat(anchors))), len(anchors))
        with torch.no_grad():
            if self.slow is not None:
                found |= _named("slow", self.slow(torch.cat(batch.views)), len(batch.views))
            elif (
                (support := batch.views[len(anchors) :])
                and self.config.mode != "none"
                and self.config.search != "anchor"
            ):
                found |= _named(
                    "view", self.projector(self.encoder(torch.cat(support))), len(support), start=len(anchors)
                )
        return found

    def loss(self, embeddings: dict[str, Tensor], labels: Tensor) -> dict[str, Tensor]:
        """Equation 1, 2 or 3; how many false negatives an anchor has, and which percentage of them shares its label."""
        c = self.config
        views_VBD = unit_rows(embeddings, "view")
        anchors_ABD = views_VBD if c.multi_crop else views_VBD[:2]
        search_SBD, candidates_CD = views_VBD.detach(), anchors_ABD.flatten(0, 1)
        if self.slow is not None:
            search_SBD = unit_rows(embeddings, "slow").detach()
            newest = search_SBD[: len(anchors_ABD)].flatten(0, 1)
            # A new tensor, not a write in place: backward still reads it.
            candidates_CD = self.memory = torch.cat([newest, self.memory[: len(self.memory) - len(newest)]])
        if c.mode == "none":
            return {
                "loss": c.loss_factor
                * fnc_loss(anchors_ABD, candidates_CD, None, mode="none", temperature=c.temperature)
            }
        score = partial(most_similar, aggregate=c.aggregate, top_k=c.top_k, threshold=c.threshold)
        false_ABC = false_negatives(search_SBD, candidates_CD, len(anchors_ABD), search=c.search, score=score)
        loss = c.loss_factor * fnc_loss(anchors_ABD, candidates_CD, false_ABC, mode=c.mode, temperature=c.temperature)
        return {
            "loss": loss,
            "false_negatives": false_ABC.sum(dim=2).float().mean(),
            "same_label": same_label(false_ABC, labels),
        }

    def after_step(self, progress: float) -> None:
        """Move the slow copies."""
        if self.slow is not None:
            move_towards(self.slow, nn.Sequential(self.encoder, self.projector), self.config.momentum)


def _named(name: str, z: Tensor, count: int, start: int = 0) -> dict[str, Tensor]:
    return {f"{name}{number}": part for number, part in enumerate(z.chunk(count), start)}


# data_util.py of the code: SimCLR's pipeline at strength 1 and RandAugment (2 operations, magnitude 7), all views alike
_PAPER_VIEW = replace(tensorflow_view("tensorflow_multiplied"), policy="randaugment_released")

RECIPES = {
    "embedded": Recipe(
        # One support view fits into the budget of 45 CPU-seconds. 5 settings tried on `val`, seed 0: top_k 10 and 20;
        # the support view as an anchor (24 and 20 epochs) or not (24 and 30 epochs, best; 28 for the budget).
        method=Config(temperature=0.5, hidden=256, multi_crop=False, memory=0),
        views=(digits(),) * 3,
        optim=Optim(name="adamw", lr=8e-3, weight_decay=1e-4, warmup_epochs=2.8, betas=(0.9, 0.99)),
        batch_size=256,
        epochs=28,
        precision="bf16",
    ),
    "cifar": Recipe(  # not in the paper: SimCLR's recipe (arXiv:2002.05709, appendix B.9), two support views
        method=Config(temperature=0.5, hidden=512, memory=0),
        views=(cifar(),) * 4,
        optim=Optim(name="lars", lr=2.0, weight_decay=1e-6, warmup_epochs=10),  # 1.0 x 512 / 256
        batch_size=512,
        epochs=1000,
        precision="bf16",
    ),
    "paper": Recipe(  # flags of run.py and README: 2 + 8 views, lr 0.1 x sqrt(4096) = 6.4; 1000 epochs in the paper
        method=Config(loss_factor=2.0),
        views=(_PAPER_VIEW,) * 10,
        optim=Optim(name="lars", lr=6.4, weight_decay=1e-4, warmup_epochs=10),
        batch_size=4096,
        epochs=1000,
        precision="tf32",  # a TPU's; see DIFFERENCES
    ),
}


def _study(scale: str, *, views: int, mode: Mode, multi_crop: bool, slow: bool) -> Recipe:
    """A run of the paper's studies (tables 1 to 3): 100 epochs, SimCLR's own views.

    Away from ImageNet the length of RECIPES.
    """
    recipe = RECIPES[scale]
    own = recipe.method
    memory, momentum = (16, 0.999) if scale == "paper" else (4, 0.97)  # a short run needs a faster slow encoder
    assert isinstance(own, Config)
    method = replace(own, mode=mode, multi_crop=multi_crop, memory=memory if slow else 0, momentum=momentum)
    if scale == "paper" and mode != "none" and not slow:
        # The figures of section 4: support views only, max; elimination is best with the 8 most similar, attraction
        # with 4.
        method = replace(method, search="support", top_k=8 if mode == "elimination" else 4)
    made = tuple(
        replace(recipe.views[0], policy="none") for _ in range(min(views, len(recipe.views)) if views > 2 else 2)
    )
    return replace(recipe, method=method, views=made, epochs=100 if scale == "paper" else recipe.epochs)


# Views, mode, multi-crop, slow encoder with memory. The support views are 8 (section 4.2's choice); without a search
# and without multi-crop only the two main views are made.
_STUDIES: Mapping[str, tuple[int, Mode, bool, bool]] = {
    "simclr": (2, "none", False, False),
    "elimination": (10, "elimination", False, False),
    "attraction": (10, "attraction", False, False),
    "multi_crop_simclr": (10, "none", True, False),
    "multi_crop": (10, "attraction", True, False),
    "momentum_simclr": (10, "none", True, True),
    "momentum": (10, "attraction", True, True),
}
VARIANTS = {
    name: {scale: _study(scale, views=views, mode=mode, multi_crop=multi_crop, slow=slow) for scale in RECIPES}
    for name, (views, mode, multi_crop, slow) in _STUDIES.items()
}
DIFFERENCES = differences.FNC
