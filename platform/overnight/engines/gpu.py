"""How busy the GPUs of this process are, from NVIDIA's own library; nothing where it is not.

The driver brings the library (NVML), so that no package is needed.
"""

from __future__ import annotations

import ctypes
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["GpuGauges"]

LIBRARY = "libnvidia-ml.so.1"


class _Utilization(ctypes.Structure):
    _fields_ = (("gpu", ctypes.c_uint), ("memory", ctypes.c_uint))


class _Memory(ctypes.Structure):
    _fields_ = (
        ("total", ctypes.c_ulonglong),
        ("free", ctypes.c_ulonglong),
        ("used", ctypes.c_ulonglong),
    )


class GpuGauges:
    """Gauges of the GPUs that `CUDA_VISIBLE_DEVICES` names, all of them if it is unset.

    Args:
        load: gives the library; an `OSError` says that there is none.
    """

    def __init__(self, load: Callable[[], Any] = lambda: ctypes.CDLL(LIBRARY)) -> None:
        self._devices: list[ctypes.c_void_p] = []
        try:
            self._nvml = load()
            if self._nvml.nvmlInit_v2() == 0:
                self._devices = self._visible()
        except (OSError, AttributeError):  # no driver, or one that is too old
            return

    def read(self) -> dict[str, float]:
        """`gpu_utilization` of late and `gpu_memory_usage`, shares as the mean over devices."""
        found = [gauges for device in self._devices if (gauges := self._of(device)) is not None]
        if not found:
            return {}
        busy, used = (sum(each) / len(found) for each in zip(*found, strict=True))
        return {"gpu_utilization": busy, "gpu_memory_usage": used}

    def _of(self, device: ctypes.c_void_p) -> tuple[float, float] | None:
        utilization, memory = _Utilization(), _Memory()
        failed = self._nvml.nvmlDeviceGetUtilizationRates(device, ctypes.byref(utilization))
        failed = failed or self._nvml.nvmlDeviceGetMemoryInfo(device, ctypes.byref(memory))
        if failed or not memory.total:
            return None
        return utilization.gpu / 100, memory.used / memory.total

    def _visible(self) -> list[ctypes.c_void_p]:
        named = os.environ.get("CUDA_VISIBLE_DEVICES")
        if named is None:
            count = ctypes.c_uint()
            if self._nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)):
                return []
            names = [str(index) for index in range(count.value)]
        else:
            names = [name.strip() for name in named.split(",") if name.strip()]
        return [device for name in names if (device := self._handle(name)) is not None]

    def _handle(self, name: str) -> ctypes.c_void_p | None:
        device = ctypes.c_void_p()
        if name.isdecimal():
            index = ctypes.c_uint(int(name))
            failed = self._nvml.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(device))
        else:
            failed = self._nvml.nvmlDeviceGetHandleByUUID(name.encode(), ctypes.byref(device))
        return None if failed else device
