"""The one place that knows which Detectron2 is installed: whether it is there, what it can do, what v0.6 needs today.

Everything else is written against the normal Detectron2 API. A build from the upstream sources runs as it is; the
sources of v0.6 (October 2021), which is what the package registry has, expect older versions of numpy, Pillow and
their own compiled extension. Each step below is skipped where it is not needed.

Not available without the compiled extension: rotated boxes, deformable convolutions and the fast, unofficial COCO
evaluation. RoIAlign and non-maximum suppression are torchvision's, so the C4 and FPN recipes never use the extension.
"""

from __future__ import annotations

import importlib.util
import sys
import types
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from bench.errors import BenchError

INSTALL = "`make detection` installs it (docs/detection.md has the line for a GPU machine)"
PACKAGES = ("detectron2", "pycocotools", "fvcore")


def missing() -> str:
    """Why detection cannot run here, in one line; "" when it can. Imports nothing heavy."""
    lost = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    return f"detection needs {' and '.join(lost)}, not installed here: {INSTALL}." if lost else ""


def describe() -> str:
    """Which Detectron2 is there and what it can do, in one line."""
    if missing():
        return missing()
    import detectron2

    if not _compiled():
        able = (
            "without compiled operators: C4 and FPN detectors on CPU and GPU, no deformable convolutions or "
            "rotated boxes"
        )
    else:
        able = "with compiled operators"
    return f"Detectron2 {detectron2.__version__} {able}"


def require() -> None:
    """Make `import detectron2...` work. Raises BenchError, saying how to install it, where it is not there."""
    if missing():
        raise BenchError(missing())
    with quiet():
        _prepare()


@contextmanager
def quiet() -> Iterator[None]:
    """Hide four warnings of Detectron2 and pycocotools on today's torch and numpy.

    At import, about anchors, resized and decoded masks.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.jit.script.*")
        warnings.filterwarnings("ignore", message=".*torch.meshgrid.*", category=UserWarning)
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable", category=UserWarning)
        warnings.filterwarnings(
            "ignore", message="__array__ implementation doesn't accept a copy keyword", category=DeprecationWarning
        )
        yield


class _NoExtension(types.ModuleType):
    """Stands where the compiled extension would be; whoever uses an operator of it is told what is missing."""

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):  # asked by inspect, pickle, copy
            raise AttributeError(name)
        raise BenchError(
            f"{self.__name__}.{name} needs a Detectron2 that was built with its C++ extension (docs/detection.md)."
        )


def _compiled() -> bool:
    """Whether the real extension is there."""
    known = sys.modules.get("detectron2._C")
    return (
        not isinstance(known, _NoExtension)
        if known is not None
        else importlib.util.find_spec("detectron2._C") is not None
    )


@cache
def _prepare() -> None:
    import numpy as np
    from PIL import Image

    if not hasattr(Image, "LINEAR"):  # Pillow 10 dropped the second name of BILINEAR
        Image.LINEAR = Image.Resampling.BILINEAR  # type: ignore[attr-defined]
    for kind in (bool, int, float, str, object):
        if kind.__name__ not in vars(np):  # numpy 1.24 dropped its names for Python's own types
            setattr(np, kind.__name__, kind)

    import detectron2

    if not _compiled():
        extension = _NoExtension("detectron2._C")
        sys.modules[extension.__name__] = extension
        detectron2._C = extension
        from pycocotools.cocoeval import COCOeval

        fast = types.ModuleType("detectron2.evaluation.fast_eval_api")  # the module that would load the extension
        fast.COCOeval_opt = COCOeval  # type: ignore[attr-defined]
        sys.modules[fast.__name__] = fast
    for part in ("config", "data", "modeling", "solver", "evaluation", "checkpoint"):
        importlib.import_module(f"detectron2.{part}")
