"""What devices can do by their data sheets, and the share of it that networks reach: for prices of jobs that never ran.

A product counts as two operations. Peaks are dense (without sparsity), of tensor cores where the precision has them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from bench.errors import unknown_name
from bench.spec import Precision

_TERA = 1e12

# H100, measured by this project (docs/gpus.md). SimCLR steps of a ResNet-50 less their optimizer, and frozen passes, in
# bf16: 0.217 and 0.081 ms a view, two equations that give 0.40 of the peak and 0.92 of the bandwidth. With the latter,
# fp32 reaches 0.39 in training (1.24 ms) and 0.55 frozen (0.34 ms), VICReg's loss 0.78 of fp32 and 0.71 of TF32. Steps
# in TF32 (0.366 ms) would need 0.88; 0.7 is taken, as no product was seen to reach more.
_H100_SHARE = "SimCLR steps with a ResNet-50, measured on one H100 (docs/gpus.md), less the time of their bytes"
_NVIDIA = "NVIDIA DeepLearningExamples, ResNet-50 v1.5 for PyTorch, training on one GPU"


@dataclass(frozen=True)
class Device:
    """One GPU, or one core of a CPU."""

    name: str  # as --device has it
    title: str
    memory_gib: float  # of a core: what the machine has beside it is not known, so infinite
    peak: Mapping[Precision, float]  # operations a second; what the device cannot compute is missing
    share: Mapping[Precision, float]  # of the peak that networks reach in training
    forward_share: Mapping[Precision, float]  # that frozen networks reach
    product_share: Mapping[Precision, float]  # that products of large matrices alone reach
    bandwidth: float  # bytes a second of its memory
    bandwidth_share: float  # that kernels which only read and write reach
    launch_seconds: float  # of one kernel that has nothing to do: the floor of small batches
    source: str  # of the peaks, the memory and the bandwidth
    share_source: str
    core_speed: float = 1.0  # relative to the core that `cpu` is, for work that is known in seconds alone
    counted_as: str = "GPU"  # what its hours are called: "GPU" or "core"

    def computes(self, precision: Precision) -> Precision:
        """The precision that is priced: fp32 where it has no TF32, or no bf16, with which a job is refused there."""
        return precision if precision in self.peak else "fp32"


_V100 = Device(
    name="v100",
    title="V100 SXM2 32 GB",
    memory_gib=32.0,
    peak={"fp32": 15.7 * _TERA, "fp16": 125 * _TERA},
    share={"fp32": 0.8, "fp16": 0.6},
    forward_share={"fp32": 0.8, "fp16": 0.6},
    product_share={"fp32": 0.8, "fp16": 0.7},
    bandwidth=900e9,
    bandwidth_share=0.9,
    launch_seconds=18e-6,
    source="NVIDIA V100 data sheet (WP-08608-001): 15.7 TFLOP/s fp32, 125 of its tensor cores, 900 GB/s",
    share_source=f"{_NVIDIA} V100: 367 images/s in fp32, about 1,200 with AMP",
)
_A100 = Device(
    name="a100",
    title="A100 SXM4 80 GB",
    memory_gib=80.0,
    peak={"fp32": 19.5 * _TERA, "tf32": 156 * _TERA, "fp16": 312 * _TERA, "bf16": 312 * _TERA},
    share={"fp32": 0.6, "tf32": 0.4, "fp16": 0.5, "bf16": 0.5},
    forward_share={"fp32": 0.6, "tf32": 0.4, "fp16": 0.5, "bf16": 0.5},
    product_share={"fp32": 0.8, "tf32": 0.7, "fp16": 0.7, "bf16": 0.7},
    bandwidth=2039e9,
    bandwidth_share=0.9,
    launch_seconds=18e-6,
    source="NVIDIA A100 data sheet: 19.5 TFLOP/s fp32, 156 TF32, 312 fp16 and bf16, 2,039 GB/s (40 GB: 1,555)",
    share_source=f"{_NVIDIA} A100: 938 images/s in TF32, 2,470 with AMP",
)
_H100 = Device(
    name="h100",
    title="H100 SXM5 80 GB",
    memory_gib=80.0,
    peak={"fp32": 67 * _TERA, "tf32": 494.5 * _TERA, "fp16": 989.5 * _TERA, "bf16": 989.5 * _TERA},
    share={"fp32": 0.39, "tf32": 0.7, "fp16": 0.4, "bf16": 0.4},
    forward_share={"fp32": 0.55, "tf32": 0.7, "fp16": 0.4, "bf16": 0.4},
    product_share={"fp32": 0.78, "tf32": 0.7, "fp16": 0.7, "bf16": 0.7},
    bandwidth=3350e9,
    bandwidth_share=0.92,
    launch_seconds=18e-6,
    source="NVIDIA H100 data sheet: 67 TFLOP/s fp32, 989 TF32 and 1,979 fp16 and bf16 with sparsity, 3.35 TB/s",
    share_source=_H100_SHARE,
)

DEVICES: Mapping[str, Device] = MappingProxyType(
    {
        device.name: device
        for device in (
            _V100,
            replace(_V100, name="v100-16gb", title="V100 SXM2 16 GB", memory_gib=16.0),
            _A100,
            replace(_A100, name="a100-40gb", title="A100 SXM4 40 GB", memory_gib=40.0, bandwidth=1555e9),
            _H100,
            replace(
                _H100,
                name="h200",
                title="H200 SXM 141 GB",
                memory_gib=140.0,
                bandwidth=4800e9,
                source="NVIDIA H200 data sheet: 67 TFLOP/s fp32, 989 TF32 and 1,979 fp16 and bf16 with sparsity, "
                "4.8 TB/s, 141 GB",
                share_source=f"as the H100's: {_H100_SHARE}",
            ),
            Device(
                name="cpu",
                title="one core with AVX-512",
                memory_gib=float("inf"),
                peak={"fp32": 160e9, "fp16": 16e9, "bf16": 320e9},
                share={"fp32": 0.6, "fp16": 0.6, "bf16": 0.6},
                forward_share={"fp32": 0.6, "fp16": 0.6, "bf16": 0.6},
                product_share={"fp32": 0.6, "fp16": 0.6, "bf16": 0.6},
                bandwidth=22e9,
                bandwidth_share=0.9,
                launch_seconds=15e-6,
                source="two units of 16 float32 fused multiply-adds at 2.5 GHz, twice that with AVX512-BF16; "
                "fp16 is emulated",
                share_source="the embedded tables' records (docs/costs.md)",
                counted_as="core",
            ),
        )
    }
)


def device_named(text: str) -> Device:
    """As `--device` names it. Raises BenchError with the allowed names for another."""
    name = text.strip().lower()
    if name not in DEVICES:
        raise unknown_name("device", text, DEVICES)
    return DEVICES[name]


# Of the cores whose records the shares of `cpu` come from, and of others relative to them: one number a model.
CORE_SPEED: Mapping[str, float] = MappingProxyType({"AMD EPYC": 1.0, "Intel(R) Xeon(R) Processor": 0.65})


def device_of(name: str) -> Device:
    """Of a device as provenance names it: "cpu: <model>", "cuda: <name>", or "cuda" alone, which is not known."""
    kind, _, model = name.partition(": ")
    if kind != "cuda":
        return slower(DEVICES["cpu"], CORE_SPEED.get(model, 1.0), model)
    small = {"v100": "16GB", "a100": "40GB"}
    for family in ("h200", "h100", "a100", "v100"):
        if family in model.lower():
            other = f"{family}-{small.get(family, '').lower()}"
            return DEVICES[other if family in small and small[family] in model.upper() else family]
    return replace(DEVICES["a100"], name="gpu", title=f"A100, which stands for {model or 'a GPU that is not named'}")


def slower(device: Device, speed: float, model: str) -> Device:
    """A core that does everything at another speed."""
    return replace(
        device,
        title=f"one core of {model}" if model else device.title,
        peak={precision: peak * speed for precision, peak in device.peak.items()},
        bandwidth=device.bandwidth * speed,
        launch_seconds=device.launch_seconds / speed,
        core_speed=device.core_speed * speed,
    )
