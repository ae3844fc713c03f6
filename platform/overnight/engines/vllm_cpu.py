"""vLLM's own C++ kernels on CPU, also where nothing is compiled. Imported in its process only.

On CPU vLLM leaves normalization and activation to `torch.compile`; uncompiled they run as a
dozen small PyTorch operations each, which took a third of a step with 256 rows of a small
model. The wheel carries fused kernels for them; this puts them to use.
"""

from __future__ import annotations

from typing import Any

import torch  # noqa: TID253 - this module runs inside vLLM's process
from vllm import ir  # noqa: TID253 - likewise
from vllm.model_executor.layers.activation import SiluAndMul  # noqa: TID253 - likewise

_PROVIDER = "overnight_cpu"


def use_fused_kernels(vllm_config: Any) -> None:
    """Let this process normalize and activate with vLLM's C++ kernels; before a model loads."""
    priority = vllm_config.kernel_config.ir_op_priority
    for name in ("rms_norm", "fused_add_rms_norm"):
        setattr(priority, name, [_PROVIDER, *getattr(priority, name)])


def _plain(x: torch.Tensor, weight: torch.Tensor | None, variance_size: int | None) -> bool:
    # The kernels want rows that lie one after the other, and a weight of the rows' type.
    return (
        variance_size is None
        and weight is not None
        and weight.dtype == x.dtype
        and x.is_contiguous()
    )


def _takes(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    epsilon: float,  # noqa: ARG001 - vLLM compares names with the native function's
    variance_size: int | None = None,
) -> bool:
    return _plain(x, weight, variance_size)


def _takes_both(
    x: torch.Tensor,
    x_residual: torch.Tensor,
    weight: torch.Tensor | None,
    epsilon: float,  # noqa: ARG001 - vLLM compares names with the native function's
    variance_size: int | None = None,
) -> bool:
    return _plain(x, weight, variance_size) and x_residual.is_contiguous()


@ir.ops.rms_norm.register_impl(_PROVIDER, supports_args=_takes)
def _rms_norm(
    x: torch.Tensor, weight: torch.Tensor | None, epsilon: float, variance_size: int | None = None
) -> torch.Tensor:
    assert variance_size is None
    normalized = torch.empty_like(x)
    torch.ops._C.rms_norm(normalized, x, weight, epsilon)  # noqa: SLF001 - its public name
    return normalized


@ir.ops.fused_add_rms_norm.register_impl(_PROVIDER, supports_args=_takes_both, inplace=True)
def _fused_add_rms_norm(
    x: torch.Tensor,
    x_residual: torch.Tensor,
    weight: torch.Tensor | None,
    epsilon: float,
    variance_size: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    assert variance_size is None
    torch.ops._C.fused_add_rms_norm(x, x_residual, weight, epsilon)  # noqa: SLF001 - likewise
    return x, x_residual


@SiluAndMul.register_oot(name="SiluAndMul")
class _FusedSiluAndMul(SiluAndMul):
    def forward_cpu(self, x: torch.Tensor) -> torch.Tensor:
        gated = torch.empty((*x.shape[:-1], x.shape[-1] // 2), dtype=x.dtype, device=x.device)
        torch.ops._C.silu_and_mul(gated, x)  # noqa: SLF001 - likewise
        return gated

    # What is registered from outside vLLM is called by this name.
    forward_oot = forward_cpu
