"""How busy GPUs are: asked of NVML's own functions, by their C signatures; silent without a GPU."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest

from overnight.engines.gpu import GpuGauges

BUSY = {b"GPU-a": (90, 40), b"GPU-b": (10, 20)}
"""Per cent of utilization, GiB in use of 80."""


class Nvml:
    """The five functions that are called, of a machine with two GPUs."""

    def __init__(self) -> None:
        self.names = list(BUSY)

    def nvmlInit_v2(self) -> int:  # noqa: N802 - NVML's names, here and below
        return 0

    def nvmlDeviceGetCount_v2(self, count: Any) -> int:  # noqa: N802
        count._obj.value = len(self.names)
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, index: ctypes.c_uint, device: Any) -> int:  # noqa: N802
        if index.value >= len(self.names):
            return 2
        device._obj.value = 1 + index.value
        return 0

    def nvmlDeviceGetHandleByUUID(self, name: bytes, device: Any) -> int:  # noqa: N802
        if name not in self.names:
            return 6
        device._obj.value = 1 + self.names.index(name)
        return 0

    def nvmlDeviceGetUtilizationRates(self, device: ctypes.c_void_p, rates: Any) -> int:  # noqa: N802
        rates._obj.gpu = BUSY[self.names[(device.value or 0) - 1]][0]
        return 0

    def nvmlDeviceGetMemoryInfo(self, device: ctypes.c_void_p, memory: Any) -> int:  # noqa: N802
        memory._obj.total = 80 << 30
        memory._obj.used = BUSY[self.names[(device.value or 0) - 1]][1] << 30
        return 0


@pytest.mark.parametrize(
    ("visible", "utilization", "memory"),
    [
        (None, 0.5, 30 / 80),
        ("0", 0.9, 40 / 80),
        ("1", 0.1, 20 / 80),
        ("GPU-b", 0.1, 20 / 80),
        ("1,0", 0.5, 30 / 80),
        ("7,1", 0.1, 20 / 80),
    ],
)
def test_gauges_are_those_of_the_gpus_that_the_process_sees(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, utilization: float, memory: float
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert GpuGauges(Nvml).read() == {
        "gpu_utilization": pytest.approx(utilization),
        "gpu_memory_usage": pytest.approx(memory),
    }


def test_a_process_without_gpus_has_no_gauges(monkeypatch: pytest.MonkeyPatch) -> None:
    # So does Ray set it for an actor that asks for none.
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert GpuGauges(Nvml).read() == {}


def test_without_a_driver_there_is_nothing_to_read() -> None:
    assert GpuGauges(lambda: ctypes.CDLL("libno-such-nvml.so.1")).read() == {}


def test_a_driver_that_is_too_old_is_no_error() -> None:
    assert GpuGauges(lambda: ctypes.CDLL(None)).read() == {}
