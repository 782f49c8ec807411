"""Devices as their data sheets have them."""

from __future__ import annotations

import pytest

from bench.costs.devices import DEVICES, device_named
from bench.errors import BenchError


def test_an_unknown_device_is_named_with_those_that_are_known() -> None:
    with pytest.raises(BenchError, match=r"Did you mean 'h100'.* Allowed: a100, a100-40gb, cpu, h100, h200, v100"):
        device_named("h10")
    assert device_named(" H100 ") is DEVICES["h100"]


def test_every_device_says_where_its_numbers_come_from_and_what_share_of_them_is_reached() -> None:
    for name, device in DEVICES.items():
        assert device.name == name
        assert device.source
        assert device.share_source
        shares = (device.share, device.forward_share, device.product_share)
        assert all(found.keys() == device.peak.keys() for found in shares)
        assert all(0 < share < 1 for found in shares for share in (*found.values(), device.bandwidth_share))


def test_a_device_without_tf32_computes_fp32_in_its_place() -> None:
    assert DEVICES["v100"].computes("tf32") == "fp32"
    assert DEVICES["h100"].computes("tf32") == "tf32"
    assert DEVICES["v100"].computes("bf16") == "fp32"
    assert DEVICES["cpu"].computes("bf16") == "bf16"
