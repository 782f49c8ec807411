"""Which GPUs this process may use, without importing torch: CUDA_VISIBLE_DEVICES as CUDA reads it, or the driver's."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from bench.errors import BenchError

SECONDS = 30.0  # that nvidia-smi may take
DEVICES = Path("/dev")  # nvidia0, nvidia1, ...: those that this container has
DRIVER = Path("/proc/driver/nvidia/gpus")  # a folder for each GPU of the machine


def visible() -> list[str]:
    """Names of the GPUs as CUDA_VISIBLE_DEVICES takes them. Raises BenchError when the driver does not answer."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return _of_driver() if named is None else read(named)


def memory() -> float | None:
    """GiB of the smallest GPU that this process may use; None where the driver does not say, as of parts of GPUs."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    command = [tool, "--query-gpu=index,uuid,memory.total", "--format=csv,noheader,nounits"]
    try:
        found = subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", timeout=SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    rows = re.findall(r"^\s*(\d+), *(GPU-\S+), *(\d+)\s*$", found.stdout, re.MULTILINE)
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [index for index, _, _ in rows] if named is None else read(named)
    there = [next((float(n) for i, uuid, n in rows if name == i or uuid.startswith(name)), None) for name in names]
    known = [mebibytes for mebibytes in there if mebibytes is not None]
    return min(known) / 1024 if found.returncode == 0 and known and len(known) == len(names) else None


def read(text: str) -> list[str]:
    """What CUDA makes of CUDA_VISIBLE_DEVICES: indices, or uuids "GPU-..." or "MIG-...", up to the first that is none.

    So "" and "-1" (and Slurm's "NoDevFiles") are no GPU at all, and so is a list that names one twice.
    """
    words = [word.strip() for word in text.split(",")]
    kind = next((kind for kind in ("GPU-", "MIG-") if words[0].startswith(kind)), "")
    found: list[str] = []
    for word in words:
        index = re.match(r"\+?(\d+)", word)
        name = word if kind and word.startswith(kind) else "" if kind or index is None else str(int(index[1]))
        if not name:
            break
        found.append(name)
    return found if len(set(found)) == len(found) else []


def _of_driver() -> list[str]:
    tool = shutil.which("nvidia-smi")
    if tool is None:  # containers often lack it
        return _of_files()
    command = [tool, "--query-gpu=index", "--format=csv,noheader"]
    try:
        found = subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", timeout=SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BenchError(
            f"nvidia-smi gave no answer ({type(error).__name__}): is the driver well? With CUDA_VISIBLE_DEVICES set, "
            'to "" for no GPU, it is not asked.'
        ) from error
    # It warns on stdout too ("WARNING: infoROM is corrupted at gpu 0000:3B:00.0").
    if found.returncode == 0:
        return re.findall(r"^\s*(\d+)\s*$", found.stdout, re.MULTILINE)
    if _of_files():  # "Driver/library version mismatch" and the like: no reason to compute on the CPU
        said = " ".join((found.stdout or found.stderr).split())
        raise BenchError(
            f"this machine has GPUs and nvidia-smi fails ({said[:200]}): mend the driver, or set "
            'CUDA_VISIBLE_DEVICES="" to run without them.'
        )
    return []


def _of_files() -> list[str]:
    """As CUDA numbers them, from 0, whatever their numbers outside the container are."""
    found = [path for path in DEVICES.glob("nvidia*") if re.fullmatch(r"nvidia\d+", path.name)]
    count = len(found) or (len(list(DRIVER.iterdir())) if DRIVER.is_dir() else 0)
    return [str(number) for number in range(count)]
