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

# H100, measured by this project (docs/gpus.md): whole SimCLR steps of a ResNet-50, 391, 1,233 and 1,951 images a second
# in fp32, TF32 and bf16. Less the time of their bytes that is 0.38, 0.52 and 0.5 of the peak.
_H100_SHARE = "SimCLR steps with a ResNet-50, measured on one H100 (docs/gpus.md), less the time of their bytes"
_NVIDIA = "NVIDIA DeepLearningExamples, ResNet-50 v1.5 for PyTorch, training on one GPU"


@dataclass(frozen=True)
class Device:
    """One GPU, or one core of a CPU."""

    name: str  # as --device has it
    title: str
    memory_gib: float  # of a core: what the machine has beside it is not known, so infinite
    peak: Mapping[Precision, float]  # operations a second; what the device cannot compute is missing
    share: Mapping[Precision, float]  # of the peak that convolutions and products of large networks reach
    bandwidth: float  # bytes a second of its memory
    bandwidth_share: float  # that kernels which only read and write reach
    launch_seconds: float  # of one kernel that has nothing to do: the floor of small batches
    source: str  # of the peaks, the memory and the bandwidth
    share_source: str
    counted_as: str = "GPU"  # what its hours are called: "GPU" or "core"

    def computes(self, precision: Precision) -> Precision:
        """The precision that the device computes when it is asked for `precision`: fp32 where it has no TF32."""
        return "fp32" if precision == "tf32" and "tf32" not in self.peak else precision


_V100 = Device(
    name="v100",
    title="V100 SXM2 32 GB",
    memory_gib=32.0,
    peak={"fp32": 15.7 * _TERA, "fp16": 125 * _TERA},
    share={"fp32": 0.7, "fp16": 0.5},
    bandwidth=900e9,
    bandwidth_share=0.8,
    launch_seconds=6e-6,
    source="NVIDIA V100 data sheet (WP-08608-001): 15.7 TFLOP/s fp32, 125 of its tensor cores, 900 GB/s",
    share_source=f"{_NVIDIA} V100: 367 images/s in fp32, about 1,200 with AMP",
)
_A100 = Device(
    name="a100",
    title="A100 SXM4 80 GB",
    memory_gib=80.0,
    peak={"fp32": 19.5 * _TERA, "tf32": 156 * _TERA, "fp16": 312 * _TERA, "bf16": 312 * _TERA},
    share={"fp32": 0.6, "tf32": 0.5, "fp16": 0.5, "bf16": 0.5},
    bandwidth=2039e9,
    bandwidth_share=0.8,
    launch_seconds=5e-6,
    source="NVIDIA A100 data sheet: 19.5 TFLOP/s fp32, 156 TF32, 312 fp16 and bf16, 2,039 GB/s (40 GB: 1,555)",
    share_source=f"{_NVIDIA} A100: 938 images/s in TF32, 2,470 with AMP",
)
_H100 = Device(
    name="h100",
    title="H100 SXM5 80 GB",
    memory_gib=80.0,
    peak={"fp32": 67 * _TERA, "tf32": 494.5 * _TERA, "fp16": 989.5 * _TERA, "bf16": 989.5 * _TERA},
    share={"fp32": 0.4, "tf32": 0.5, "fp16": 0.5, "bf16": 0.5},
    bandwidth=3350e9,
    bandwidth_share=0.8,
    launch_seconds=5e-6,
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
                bandwidth=10e9,
                bandwidth_share=0.8,
                launch_seconds=10e-6,
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
