"""Products of vectors in the numbers that are quickest to multiply, and how far these are off."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

__all__ = [
    "Products",
    "fastest",
    "given_in",
    "int8_adds_up",
    "multiply",
    "numbers",
    "off_and_length",
    "roughened",
]

Products = Literal["int8", "bfloat16", "float32"]

_TRIAL = (2048, 512)
_TRIES = 10
_MORE_LEFT = {"int8": 1.3}
"""How much quicker products must be to make up for what they leave to be computed again."""


def roughened(vectors: torch.Tensor, products: Products) -> tuple[torch.Tensor, torch.Tensor]:
    """What stands for each row in products, in float32, and what to multiply these with."""
    import torch

    if products != "int8":
        kind = getattr(torch, products)
        return vectors.to(kind).float(), vectors.new_ones(len(vectors), 1)
    scale = vectors.abs().amax(1, keepdim=True) / 127
    scale = torch.where(scale > 0, scale, 1.0)
    return (vectors / scale).round_().clamp_(-127, 127), scale


def numbers(rough: torch.Tensor, products: Products) -> torch.Tensor:
    """Rough vectors as products take them."""
    import torch

    kept = rough.to(getattr(torch, products))
    # Of a single factor torch's product of int8 is wrong: its layout is ambiguous.
    fill = -rough.shape[1] % 4 if products == "int8" else 0
    return torch.nn.functional.pad(kept, (0, fill))


def off_and_length(exact: torch.Tensor, rough: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """How far rough vectors are off, and the length of the longer one of each two (float64)."""
    import torch

    exact, rough = exact.double(), rough.double()
    return (rough - exact).norm(dim=1), torch.maximum(exact.norm(dim=1), rough.norm(dim=1))


def fastest(device: torch.device, factors: int) -> Products:
    """Which products take the least time here."""
    import torch

    names: tuple[Products, ...] = ("int8" if device.type == "cpu" else "bfloat16", "float32")

    def trial(name: Products) -> Callable[[], float]:
        kind = getattr(torch, name)
        left, right = (torch.ones(size, factors, dtype=kind, device=device) for size in _TRIAL)
        out = torch.empty(_TRIAL, dtype=given_in(kind), device=device)

        def seconds() -> float:
            began = time.perf_counter()
            multiply(left, right.T, out)
            float(out[0, 0])  # waits for a GPU too
            return (time.perf_counter() - began) * _MORE_LEFT.get(name, 1.0)

        return seconds

    trials = [trial(name) for name in names]
    taken = np.array([[seconds() for seconds in trials] for _ in range(_TRIES)])
    return names[int(taken.min(axis=0).argmin())]


def multiply(left: torch.Tensor, right: torch.Tensor, out: torch.Tensor) -> None:
    """Multiply `numbers`, (queries, factors) and (factors, items), into memory that is there."""
    import torch

    if left.dtype == torch.int8:
        torch._int_mm(left, right, out=out)  # noqa: SLF001 - torch has no public product of int8
    else:
        torch.mm(left, right, out=out)


def int8_adds_up() -> bool:
    """Whether products of int8 are right here: on a CPU without VNNI, oneDNN lets sums saturate."""
    import torch

    most = torch.tensor([127, -127], dtype=torch.int8).repeat(16)[:, None].repeat(1, 64)
    found = torch.empty(32, 32, dtype=torch.int32)
    multiply(most, most.T, found)
    return torch.equal(found, most.int() @ most.int().T)


def given_in(kind: torch.dtype) -> torch.dtype:
    """What products of such numbers are given in."""
    import torch

    return torch.int32 if kind == torch.int8 else kind
