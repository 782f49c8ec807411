"""The frozen encoder of an evaluation, from whatever its spec names."""

from __future__ import annotations

from hashlib import sha256

import torch

from bench import plugins
from bench.contracts import Subject
from bench.errors import BenchError, InputCorrupt, first_words
from bench.files import file_sha256
from bench.identity import digest, job_id
from bench.networks import encoders
from bench.networks.layout import FROZEN, lay_out
from bench.runs.folder import RunFolder, Runs
from bench.spec import Encoder, Pixels, Random, Released
from bench.training import methods
from bench.weights import layouts


def load_subject(spec: Encoder, size: int, runs: Runs, device: torch.device, *, projector: bool) -> Subject:
    """The frozen encoder of a spec. Raises InputCorrupt when its weights are damaged, after setting them aside.

    Raises BenchError, the file in place, when they are whole and cannot be read now.
    """
    if isinstance(spec, Pixels):
        return Subject(
            key=f"{digest(spec)}-pixels",
            network=_frozen(encoders.PixelEncoder(size), device),
            feature_dim=3 * size * size,
        )
    if isinstance(spec, Random):
        network = encoders.build(spec.backbone, spec.seed)
        return Subject(
            key=f"{digest(spec)}-{weights_key(network)}",
            network=_frozen(network, device),
            feature_dim=network.feature_dim,
        )
    if isinstance(spec, Released):
        network, origin = layouts.load_released(spec, runs.root)
        return Subject(
            f"{digest(spec)}-{weights_key(network)}", _frozen(network, device), network.feature_dim, origin=origin
        )
    parent = runs[job_id(spec)]
    network = encoders.build(spec.backbone, spec.seed)
    head: torch.nn.Module | None = None
    try:
        state = torch.load(parent.weights, map_location="cpu", weights_only=True)
        network.load_state_dict(state["encoder"])
        if projector:
            method = methods.build_method(spec, steps=1)
            method.load_state_dict(state["method"])
            head = plugins.method_of(spec.method).projector(method)
    except Exception as error:  # torch raises many kinds for a damaged file
        if _is_whole(parent):  # it took a whole pretraining to make it
            raise BenchError(
                f"{parent.weights} could not be read ({first_words(error)}), and its sha256 is the one in result.json: "
                "it stays where it is, and the same command reads it again."
            ) from error
        for file in (parent.weights, parent.result_file):
            parent.set_aside(file)
        raise InputCorrupt(
            f"{parent.weights} is damaged ({first_words(error)}) and set aside: the same command trains it again."
        ) from error
    return Subject(
        key=f"{digest(spec)}-{weights_key(network)}",
        network=_frozen(network, device),
        feature_dim=network.feature_dim,
        projector=None if head is None else _frozen(head, device),
    )


def _is_whole(parent: RunFolder) -> bool:
    """Whether the weights are those that the pretraining wrote. Raises OSError where that cannot be seen."""
    try:
        return file_sha256(parent.weights) == parent.result().details.get("weights_sha256")
    except (FileNotFoundError, InputCorrupt):
        return False


def weights_key(network: torch.nn.Module) -> str:
    """A digest of the weights themselves: features of weights trained anew are never taken for the old ones."""
    digest = sha256()
    for name, tensor in network.state_dict().items():
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def _frozen(network: torch.nn.Module, device: torch.device) -> torch.nn.Module:
    lay_out(network.to(device), device, FROZEN)
    return network.eval().requires_grad_(False)
