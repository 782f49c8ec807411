"""What the measurements share: the short form, one thread, and what a reader must know of the machine."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from typing import Any

import pytest

PACKAGES = ("torch", "torchvision", "pillow", "numpy", "scikit-learn")
# Of the instruction sets, those that torch's kernels ask for and that decide what bfloat16 is worth.
FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--short",
        action="store_true",
        help="one round of less work each: shows that everything can be measured, not how long it takes",
    )


@pytest.fixture(scope="session")
def short(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--short"))


@pytest.fixture(scope="session")
def rounds(short: bool) -> int:
    return 1 if short else 5


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    """Into the JSON, from which docs/make_performance.py takes it."""
    import torch

    flags = set(machine_info.get("cpu", {}).get("flags", ()))
    machine_info["performance"] = {
        "processor": machine_info.get("cpu", {}).get("brand_raw", platform.machine()),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9),
        "flags": [flag for flag in FLAGS if flag in flags],
        "system": f"{platform.system()} {platform.release().partition('-')[0]}",
        "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
        "short": bool(config.getoption("--short")),
    }
