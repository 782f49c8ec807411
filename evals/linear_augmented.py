"""Linear evaluation on augmented images by papers' protocols: random crops and flips, SGD, a fixed number of epochs.

The head is trained on the features of a frozen backbone, in evaluation mode, on crops drawn anew in every epoch. With
one head (the papers' settings) it trains on all official training images and nothing is chosen; with a grid, all heads
train in one pass over the backbone on `train` and one is chosen on `val`. The LAST epoch is reported; `best_epoch_top1`
is the highest top-1 of the epochs on the test images themselves, which some papers print.
Resampling, last partial batches and ranks: see evals/parts/augmented_heads.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from bench.contracts import Context, Difference, Metric, Outcome, Sizes, Subject
from bench.data.stream import Steps, alone
from evals.parts.accuracy import top_k
from evals.parts.augmented_heads import best_epoch, train
from evals.parts.augmented_settings import Training
from evals.parts.differences import BICUBIC, PARTIAL_BATCH
from evals.parts.slices import memory_of_a_probe

RESUMES = True
METRICS = {
    "top1": Metric("%", higher_is_better=True),
    "top5": Metric("%", higher_is_better=True),
    "best_epoch_top1": Metric("%", higher_is_better=True),
}


@dataclass(frozen=True, kw_only=True)
class Config(Training):
    """The fields of Training."""

    VERSION: int = field(default=1, init=False)

    def memory(self, sizes: Sizes) -> float:
        """For a plan."""
        return memory_of_a_probe(sizes, heads=len(self.grid), batch_size=self.batch_size, blocks=self.last_blocks)


def evaluate(config: Config, subject: Subject, context: Context) -> Outcome:
    """Top-1 and top-5 of the last epoch on the test split, and top-1 of the best epoch, in percent."""
    return alone(evaluate_in_steps(config, subject, context))


def evaluate_in_steps(config: Config, subject: Subject, context: Context) -> Steps[Outcome]:
    """The same for whoever drives it: see bench/data/stream.py."""
    trained = yield from train(config, subject, context)
    epoch, top1 = best_epoch(trained)
    reported = "the best epoch, on the test images" if config.best_epoch_reported else "the last epoch, or does not say"
    return Outcome(
        metrics={
            "top1": top_k(trained.scores, trained.labels, 1),
            "top5": top_k(trained.scores, trained.labels, 5),
            "best_epoch_top1": top1,
        },
        details={**trained.details, "best_epoch": epoch, "paper_prints": reported},
    )


# Rates and decays of the harness's own sweep, around those of the papers (0.02 to 1.6).
_RATES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
_DECAYS = (0.0, 1e-6, 1e-5, 1e-4, 1e-3)
# Digits are not mirror-symmetric: no flips. Rates are higher than the papers': 64 small features of a tiny network, few
# steps. The crops are the papers'.
_EMBEDDED = Config(
    learning_rates=(0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0),
    batch_size=128,
    epochs=10,
    schedule="cosine_step",
    flip=0.0,
    start="zero",
)
_CIFAR = Config(learning_rates=_RATES, weight_decays=_DECAYS, epochs=30)

RECIPES = {"embedded": _EMBEDDED, "cifar": _CIFAR, "paper": Config(learning_rates=_RATES, weight_decays=_DECAYS)}

# facebookresearch/barlowtwins, evaluate.py, on which those of VICReg, DirectCLR and TWIST are built: SGD with momentum
# 0.9 and decay of weights and bias, batch 256, 100 epochs, cosine stepped once an epoch, N(0, 0.01) and bias 0, crops
# of 8 to 100 % and flips, Resize(256) and CenterCrop(224); the best epoch on val is kept and printed.
_BARLOW_TWINS = Config(
    learning_rates=(0.3,),  # appendix B.1; not scaled with the batch
    weight_decays=(1e-6,),
    batch_size=256,
    epochs=100,
    schedule="cosine_epoch",
    best_epoch_reported=True,
)

_PAPER = {
    "barlow_twins": _BARLOW_TWINS,
    # arXiv:2105.04906, appendix C.2 and README: rate 0.02. The appendix has crops of 20 to 100 %; here those of
    # evaluate.py (8 to 100 %), with which README gives 73.2 % for the released weights.
    "vicreg": Config(
        learning_rates=(0.02,),
        weight_decays=(1e-6,),
        batch_size=256,
        epochs=100,
        schedule="cosine_epoch",
        best_epoch_reported=True,
    ),
    # arXiv:2002.05709, appendix B.6: Nesterov momentum 0.9, rate 0.1 x 4096 / 256 = 1.6, 90 epochs, no regularisation
    # (README's command has a decay of 1e-6). From google-research/simclr: cosine per step, head initialised at 0
    # (README), training crops by tf.image.sample_distorted_bounding_box (data_util.py), test images cropped to the
    # central 87.5 %, which is 224 of 256. TPUs: see precision in methods/simclr.py.
    "simclr": Config(
        nesterov=True,
        learning_rates=(0.1,),
        rate_scaling="linear",
        batch_size=4096,
        epochs=90,
        schedule="cosine_step",
        crop_sampler="tensorflow",
        test_resize=1 / 0.875,
        start="zero",
        precision="tf32",
    ),
    # bytedance/TWIST, README (--lr-classifier 0.2 --batch-size 1024 --weight-decay 0) and evaluate.py; not scaled.
    "twist": Config(
        learning_rates=(0.2,), batch_size=1024, epochs=100, schedule="cosine_epoch", best_epoch_reported=True
    ),
    # bytedance/TWIST, README (--lr 0.02 for DeiT-S, 0.0015 for ViT-B, x batch / 256, 8 x 128 images) and
    # evaluate_vitlinear.py: no decay, class tokens of the last 4 blocks, the best epoch printed.
    "twist_vit": Config(
        learning_rates=(0.02,),
        rate_scaling="linear",
        batch_size=1024,
        epochs=100,
        schedule="cosine_epoch",
        last_blocks=4,
        best_epoch_reported=True,
    ),
    "twist_vit_base": Config(
        learning_rates=(0.0015,),
        rate_scaling="linear",
        batch_size=1024,
        epochs=100,
        schedule="cosine_epoch",
        last_blocks=4,
        best_epoch_reported=True,
    ),
    # facebookresearch/directclr, linear_probe.py: Barlow Twins' with rate 0.1 (README, table 1: about 62.7 % best
    # epoch). That file makes a cosine and never steps it, so the printed numbers are at 0.1 to the end, as here.
    "directclr": Config(
        learning_rates=(0.1,),
        weight_decays=(1e-6,),
        batch_size=256,
        epochs=100,
        schedule="constant",
        best_epoch_reported=True,
    ),
    # google-research/fnc, README: Nesterov momentum, 0.005 x sqrt(1024) = 0.16, no decay, 90 epochs, head at 0;
    # data_util.py: crops of 20 to 100 %, test crop of 87.5 %; model_util.py: cosine per step.
    "fnc": Config(
        nesterov=True,
        learning_rates=(0.005,),
        rate_scaling="sqrt",
        batch_size=1024,
        epochs=90,
        schedule="cosine_step",
        crop_scale=(0.2, 1.0),
        crop_sampler="tensorflow",
        test_resize=1 / 0.875,
        start="zero",
        precision="tf32",
    ),
    # wanggrun/triplet, r50_last_cos_for_LessSslEpoch.py and ..._for_MoreSslEpoch.py: no decay, batch 8 x 32, cosine per
    # epoch from the first, times a line over 10 epochs from 1e-4 (mmcv's warm-up). Short is for 200 epochs of
    # pretraining, long for 1000.
    "truncated_triplet_short": Config(
        learning_rates=(0.15,), batch_size=256, epochs=100, schedule="cosine_epoch", warmup_epochs=10, warmup_start=1e-4
    ),
    "truncated_triplet_long": Config(
        learning_rates=(0.04,), batch_size=256, epochs=100, schedule="cosine_epoch", warmup_epochs=10, warmup_start=1e-4
    ),
}
# Away from ImageNet the published rates mean nothing: there all variants are the sweep, computed once.
VARIANTS = {name: {"embedded": _EMBEDDED, "cifar": _CIFAR, "paper": config} for name, config in _PAPER.items()}

DIFFERENCES = (
    BICUBIC,
    PARTIAL_BATCH,
    Difference(
        "Weight decay in SimCLR's setting",
        "1e-6 in the README's command.",
        "0.",
        "The paper says that there is no regularisation.",
        "None expected.",
    ),
    Difference(
        "Processes",
        "One for each GPU.",
        "One process trains all heads.",
        "A head is small beside the frozen backbone.",
        "None.",
    ),
)
