"""`bench evaluate`: a checkpoint of one's own under any protocol.

Its jobs are ordinary ones; the file's sha256 is part of their ids.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, cast

from bench import plugins
from bench.commands import driver
from bench.data.fingerprint import DataHere
from bench.errors import BenchError, InputCorrupt, unknown_name
from bench.execution import executors
from bench.files import make_folder
from bench.networks import encoders
from bench.networks.vit import VITS
from bench.planning import graph, scales, translate
from bench.planning.graph import Job
from bench.runs.folder import RunFolder, Runs
from bench.settings.site import Site
from bench.spec import Backbone, Evaluate, Pretrain, Released
from bench.weights import layouts
from bench.weights.released import OWN, folder_of, parts, register

NORMALIZE = ("none", "imagenet")


@dataclass(frozen=True)
class CheckpointRequest:
    """What to evaluate, and how. None: as the run folder beside the checkpoint says, or the scale's default."""

    site: Site
    checkpoint: Path
    protocols: tuple[str, ...]
    scale: str
    network: str | None = None
    width: int | None = None
    normalize: str | None = None
    dataset: str = "imagenet"
    variant: str = ""
    part: str = ""  # of a file with several networks


def run(
    request: CheckpointRequest, executor: str, *, force: bool = False, accept_data: bool = False, restart: bool = False
) -> int:
    """Evaluate and print; 0 when every number is there, 1 when a job failed, 130 when interrupted.

    Finished jobs are repeated with `force`, and when their data changed unless that is accepted.
    """
    driver.check_executor(executor)
    path = _here(request.checkpoint)
    backbone = backbone_of(request, path)
    encoders.check_backbone(backbone)
    _check_protocols(request)
    _, report = layouts.load(backbone, path, request.part)
    make_folder(request.site.runs)
    digest = register(path, folder_of(request.site.runs), read=True)  # it was read for the check already
    subject = Released(name=OWN, backbone=backbone, sha256=digest, part=report.part if request.part else "")
    jobs = graph.plan(
        (f"{path.name} | {protocol}", _spec(request, subject, protocol)) for protocol in request.protocols
    )
    for problem in driver.missing_data(jobs, request.site):
        raise problem
    inputs = "normalised with ImageNet's mean and deviation" if backbone.normalize == "imagenet" else "from 0 to 1"
    print(f"{path}: sha256 {subject.sha256[:12]}, {report.line()}")
    assumed = f"assumed, as no checkpoint says it: {encoders.assumptions(backbone)}"
    print(f"network {backbone.name} {backbone.width}x, inputs {inputs}; {assumed}", flush=True)
    forced = frozenset(jobs.jobs) if force else frozenset()
    here = DataHere(request.site)
    repeated = replace(driver.again(jobs, here, forced, accept_data=accept_data), restart=restart)
    driver.prepare(jobs, request.site, repeated, executor)
    if executor == "slurm":
        summary = driver.drive_slurm(jobs, request.site, repeated, [path.name], watch=True)
    else:
        summary = driver.drive(jobs, here, executors.make(executor, request.site))
    runs = Runs(request.site.runs)
    for job in jobs:
        if runs[job.id].result_file.exists():
            print("\n" + "\n".join(_numbers(job, runs)))
    return driver.closing(summary, jobs, request.site)


def backbone_of(request: CheckpointRequest, path: Path) -> Backbone:
    """The network that the file is for. Weights in a run folder of this project know it themselves."""
    if request.normalize is not None and request.normalize not in NORMALIZE:
        raise unknown_name("--normalize", request.normalize, NORMALIZE)
    normalize = cast(Literal["none", "imagenet"] | None, request.normalize)
    scale = scales.scale_of(request.scale)
    trained = _trained_as(path) if request.network is None and request.width is None else None
    if trained is not None:
        return replace(trained, normalize=normalize or trained.normalize)
    network = request.network or "resnet50"
    if network in scale.networks:
        backbone = scale.networks[network]
    elif scale.published and network in {*encoders.RESNETS, *VITS}:
        backbone = Backbone(name=network)
    else:
        raise unknown_name(
            f"architecture at scale {scale.name}",
            network,
            {*scale.networks, *((*encoders.RESNETS, *VITS) if scale.published else ())},
        )
    backbone = replace(backbone, width=1 if request.width is None else request.width)
    if layouts.is_tensorflow(path):  # what is read of TensorFlow takes images from 0 to 1, and pads as TensorFlow does
        return replace(backbone, padding="tensorflow", normalize=normalize or "none")
    return replace(backbone, normalize=normalize or ("imagenet" if scale.published else "none"))


def _trained_as(path: Path) -> Backbone | None:
    """The backbone in job.json beside a weights.pt, None where there is none to be read."""
    try:
        spec = RunFolder(path.resolve().parent).read_spec()
    except (FileNotFoundError, InputCorrupt, BenchError, KeyError):
        return None
    return spec.backbone if isinstance(spec, Pretrain) else None


def _here(path: Path) -> Path:
    for part in parts(path):
        if not part.is_file():
            raise BenchError(f"the checkpoint {path} is not there.")
    return path


def _check_protocols(request: CheckpointRequest) -> None:
    for protocol in request.protocols:
        if plugins.evaluation(protocol).needs_projector:
            print(
                f"note: {protocol} looks at a projector, which a checkpoint of one's own does not bring: the "
                "representation stands in for it"
            )


def _spec(request: CheckpointRequest, subject: Released, protocol: str) -> Evaluate:
    scale = scales.scale_of(request.scale, request.site.overrides)
    return translate.evaluation(scale, subject, protocol, dataset=request.dataset, seed=0, variant=request.variant)


def _numbers(job: Job, runs: Runs) -> list[str]:
    """One evaluation: the numbers, and the protocol behind them."""
    spec = job.spec
    assert isinstance(spec, Evaluate)
    evaluation = plugins.evaluation_of(spec.protocol)
    values = [
        f"{key} {value:.2f} {evaluation.metrics[key].unit}".rstrip()
        for key, value in runs[job.id].result().metrics.items()
    ]
    protocol = f"{evaluation.describe(spec.protocol)} (version {evaluation.version(spec.protocol)})"
    return [f"{evaluation.name} on {spec.data.name}: {', '.join(values)}", f"    {protocol}, job {job.id}"]
