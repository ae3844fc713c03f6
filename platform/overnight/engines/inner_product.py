"""The k items with the largest inner products with each query: exact, at the price of rough ones.

Products are computed in the numbers that the machine is fastest with, a block of queries and
items at a time, and how far they can be off is known. From the best of each run of items follows
a score that the k-th best reaches at least; what cannot reach it is never looked at again, and
the little that is left is computed anew in float64. So neither block sizes nor devices nor
precision change a result, and the full matrix never exists.

A score is the inner product in float64, rounded to float32; of equal scores the smaller item
number comes first.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

__all__ = ["NO_ITEM", "ItemIndex", "Products"]

Products = Literal["bfloat16", "float32"]
Matrix = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

NO_ITEM = -1

_LONGEST_RUN = 128
_RUNS_FOR_EACH = 4
"""Runs for each of the k wanted: with fewer, the bound that follows from their best is loose."""
_MOST_ITEMS = 1 << 16
_MOST_SCORES = {"cpu": 1 << 25, "cuda": 1 << 28}
"""Scores that a thread holds at once: 64 MB of bfloat16 on CPU."""
_MOST_QUERIES = {"cpu": 512, "cuda": 8192}
_EXACT_ROWS = 1 << 12
"""Products computed anew at once, so that they stay in a core's cache."""
_TRIAL = (256, 8192)
_UNIT = 2.0**-24
"""The largest relative error of rounding to float32."""
_NOTHING = -(2**63)


class ItemIndex:
    """Items to search among; `close` ends its threads.

    Args:
        vectors: one for each item, (items, factors), finite.
        k: how many items to find, at least 1.
        threads: blocks computed at once on CPU.
        device: "cuda", "cpu", or "auto" for a GPU where there is one.
        products: what to multiply in; None for what a trial shows to be fastest here.
    """

    def __init__(
        self,
        vectors: Matrix,
        *,
        k: int,
        threads: int,
        device: Literal["auto", "cuda", "cpu"] = "auto",
        products: Products | None = None,
    ) -> None:
        import torch

        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if device == "cuda":
            # The bound on the errors counts on sums in float32.
            torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
            threads = 1
        else:
            # Blocks are computed side by side, so that nothing is serial in between.
            torch.set_num_threads(1)
        self._device = torch.device(device)
        self._k = k
        self._items, self._factors = vectors.shape
        self.products: Products = products or _fastest(self._device, self._factors)
        self._type: torch.dtype = getattr(torch, self.products)
        self._bits = torch.int16 if self.products == "bfloat16" else torch.int32
        # Beyond the sums' own errors: storing one in bfloat16; a margin covers what is computed
        # from these numbers.
        self._rounding = 2**-7.9 if self.products == "bfloat16" else 2.0**-22
        self._local = threading.local()
        self._pool = ThreadPoolExecutor(threads, "overnight-top-k")
        self._keep(torch.from_numpy(np.array(vectors, np.float32, order="C")))

    def best(self, queries: Matrix, starts: Ints, excluded: Ints) -> tuple[Ints, Matrix]:
        """The best items for each query, without those that are excluded for it.

        Args:
            queries: (queries, factors), finite.
            starts: where the part of each query begins in `excluded`, and where the last ends:
                (queries + 1).
            excluded: item numbers.

        Returns:
            Item numbers (queries, k), the best first, and their scores; `NO_ITEM` and minus
            infinity where no item is left.
        """
        items = np.full((len(queries), self._k), NO_ITEM, np.int64)
        scores = np.full((len(queries), self._k), -np.inf, np.float32)
        kind = self._device.type
        width = min(len(self._rough), _MOST_ITEMS)
        step = max(1, min(_MOST_QUERIES[kind], _MOST_SCORES[kind] // width))

        def work(first: int) -> None:
            last = min(first + step, len(queries))
            owner = np.repeat(np.arange(last - first), np.diff(starts[first : last + 1]))
            part = excluded[starts[first] : starts[last]]
            items[first:last], scores[first:last] = self._block(queries[first:last], owner, part)

        list(self._pool.map(work, range(0, len(queries), step)))
        return items, scores

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()

    def _keep(self, vectors: torch.Tensor) -> None:
        """Put the longest vectors first, in runs, and say of each run how rough its numbers are."""
        import torch

        self._run = 1
        while self._run < _LONGEST_RUN and 2 * self._run * _RUNS_FOR_EACH * self._k <= self._items:
            self._run *= 2
        order = vectors.double().norm(dim=1).argsort(descending=True, stable=True)
        padding = -self._items % self._run
        exact = torch.cat([vectors[order], vectors.new_zeros(padding, self._factors)])
        rough = exact.to(self._type)
        off, length = _off_and_length(exact, rough)
        bounds = [part.view(-1, self._run).amax(1) for part in (off, length)]
        place = torch.empty_like(order)
        place[order] = torch.arange(self._items)
        self._exact, self._rough = exact.to(self._device), rough.to(self._device)
        self._bounds = torch.stack(bounds).float().to(self._device)
        self._place = place.to(self._device)
        self._number = torch.cat([order, order.new_zeros(padding)]).to(self._device)

    def _block(self, queries: Matrix, owner: Ints, excluded: Ints) -> tuple[Any, Any]:
        """`best` for a few queries: `owner` says whose each of `excluded` is."""
        import torch

        exact = torch.from_numpy(queries).to(self._device)
        rough = exact.to(self._type)
        off, length = _off_and_length(exact, rough)
        # |q.v - q~.v~| <= |q~||v - v~| + |q - q~||v|, and what summing and rounding add.
        summing = 2 * (self._factors + 4) * _UNIT * length
        reach = torch.stack([length, off + summing], dim=1).float()
        exact = exact.double()
        rows = torch.from_numpy(owner).to(self._device)
        places = self._place.index_select(0, torch.from_numpy(excluded).to(self._device))
        keys = torch.full((len(queries), self._k), _NOTHING, device=self._device)
        floor = torch.full((len(queries),), -torch.inf, device=self._device)
        step = max(self._run, _MOST_ITEMS // self._run * self._run)
        for first in range(0, len(self._rough), step):
            last = min(first + step, len(self._rough))
            scores = self._scores(len(queries), last - first)
            torch.mm(rough, self._rough[first:last].T, out=scores)
            inside = (places >= first) & (places < last)
            hidden = (rows * (last - first) + places - first)[inside]
            scores.view(-1).index_fill_(0, hidden, -torch.inf)
            if last > self._items:
                scores[:, self._items - first :] = -torch.inf
            runs = slice(first // self._run, last // self._run)
            row, place = self._survivors(scores, reach @ self._bounds[:, runs], floor)
            found = self._keyed(exact, row, first + place)
            keys = _top(torch.cat([keys, _in_rows(row, found, len(queries))], dim=1), self._k)
            worst = keys[:, -1]
            floor = torch.where(worst > _NOTHING, torch.maximum(floor, _score(worst)), floor)
        return self._decoded(keys)

    def _scores(self, rows: int, width: int) -> torch.Tensor:
        """A place for rough scores, used again: new memory costs more than the sums."""
        import torch

        held = getattr(self._local, "scores", None)
        if held is None or len(held) < rows * width:
            held = torch.empty(rows * width, dtype=self._type, device=self._device)
            self._local.scores = held
        return held[: rows * width].view(rows, width)

    def _survivors(
        self, scores: torch.Tensor, errors: torch.Tensor, floor: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Row and column of each score that may be among its row's k best.

        Args:
            scores: rough; minus infinity where nothing is wanted. Spoiled by this.
            errors: how far the scores of each run can be off, (rows, runs).
            floor: a score that each row's k-th best is known to reach.
        """
        import torch

        # Integers of the same bits are in the order of the numbers, as long as none is negative;
        # their maxima cost a tenth of those of bfloat16.
        bits = scores.view(self._bits).view(len(scores), -1, self._run)
        best = bits.amax(2)
        widest = errors.amax(1)
        floor = torch.maximum(floor, self._surely_reached(best.view(self._type), widest))
        if bool((floor <= widest).any()):
            _reorder(bits)
            best = bits.amax(2)
            sure = self._surely_reached(_reorder(best.clone()).view(self._type), widest)
            floor = torch.maximum(floor, sure)
        needed = floor[:, None] - errors
        needed = needed.sub_(needed.abs().mul_(self._rounding)).to(self._type)
        nothing = torch.tensor([-torch.inf], dtype=self._type, device=scores.device)
        least = int(_reorder(nothing.view(self._bits))) + 1
        asked = _reorder(needed.view(self._bits)).sub_(1).clamp_(min=least)
        run = (best >= asked).view(-1).nonzero()[:, 0]
        kept = bits.view(-1, self._run).index_select(0, run)
        hits = _nonzero(kept >= asked.view(-1).index_select(0, run)[:, None])
        place = run.index_select(0, hits // self._run) * self._run + hits % self._run
        width = scores.shape[1]
        return place // width, place % width

    def _surely_reached(self, best: torch.Tensor, widest: torch.Tensor) -> torch.Tensor:
        """What each row's k-th best score reaches, given the best of each run: runs differ."""
        import torch

        if best.shape[1] < self._k:
            return torch.full((len(best),), -torch.inf, device=best.device)
        if best.device.type == "cpu":
            ordered = np.partition(best.float().numpy(), -self._k, axis=1)
            worst = torch.from_numpy(ordered[:, -self._k])
        else:
            worst = best.float().topk(self._k, dim=1).values[:, -1]
        return worst - worst.abs() * self._rounding - widest

    def _keyed(self, queries: torch.Tensor, row: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
        """A number for each pair that says exact score and item, in the order of the result."""
        import torch

        scores = torch.empty(len(row), device=row.device)
        for first in range(0, len(row), _EXACT_ROWS):
            part = slice(first, first + _EXACT_ROWS)
            factors = self._exact.index_select(0, place[part]).double()
            scores[part] = factors.mul_(queries.index_select(0, row[part])).sum(1)
        # 0.0 and -0.0 are one score.
        ordered = _reorder(scores.add_(0.0).view(torch.int32)).long()
        return (ordered << 32) | (0xFFFFFFFF - self._number.index_select(0, place))

    def _decoded(self, keys: torch.Tensor) -> tuple[Any, Any]:
        import torch

        there = keys > _NOTHING
        items = torch.where(there, 0xFFFFFFFF - (keys & 0xFFFFFFFF), NO_ITEM)
        scores = torch.where(there, _score(keys), -torch.inf)
        return items.cpu().numpy(), scores.cpu().numpy()


def _off_and_length(exact: torch.Tensor, rough: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """How far rough vectors are off, and the length of the longer one of each two (float64)."""
    import torch

    exact, rough = exact.double(), rough.double()
    return (rough - exact).norm(dim=1), torch.maximum(exact.norm(dim=1), rough.norm(dim=1))


def _reorder(bits: torch.Tensor) -> torch.Tensor:
    """Give floats' bits, in place, the order of the floats; doing it again takes it back."""
    import torch

    sign, rest = (15, 0x7FFF) if bits.dtype == torch.int16 else (31, 0x7FFFFFFF)
    return bits.bitwise_xor_((bits >> sign).bitwise_and_(rest))


def _score(keys: torch.Tensor) -> torch.Tensor:
    import torch

    return _reorder((keys >> 32).int()).view(torch.float32)


def _nonzero(mask: torch.Tensor) -> torch.Tensor:
    """Where a mask is true, as positions in a row; NumPy takes half of torch's time on CPU."""
    import torch

    if mask.device.type == "cpu":
        return torch.from_numpy(np.flatnonzero(mask.numpy()))
    return mask.view(-1).nonzero()[:, 0]


def _in_rows(row: torch.Tensor, values: torch.Tensor, rows: int) -> torch.Tensor:
    """Values, given in the order of their rows, as a matrix, `_NOTHING` where a row has fewer."""
    import torch

    counts = torch.bincount(row, minlength=rows)
    width = int(counts.max()) if len(row) else 0
    begins = counts.cumsum(0) - counts
    matrix = torch.full((rows, width), _NOTHING, device=row.device)
    nth = torch.arange(len(row), device=row.device) - begins.index_select(0, row)
    matrix.view(-1)[row * width + nth] = values
    return matrix


def _top(keys: torch.Tensor, k: int) -> torch.Tensor:
    """The k largest of each row, in order; sorting all takes a tenth of torch's topk on CPU."""
    import torch

    if keys.device.type == "cpu":
        return torch.from_numpy(np.sort(keys.numpy(), axis=1)[:, : -k - 1 : -1].copy())
    return keys.topk(k, dim=1).values


def _fastest(device: torch.device, factors: int) -> Products:
    """Which products take the least time here: bfloat16 needs hardware that knows it."""
    import torch

    def seconds(name: Products) -> float:
        kind = getattr(torch, name)
        left = torch.ones(_TRIAL[0], factors, dtype=kind, device=device)
        right = torch.ones(_TRIAL[1], factors, dtype=kind, device=device)
        taken = []
        for _ in range(4):
            began = time.perf_counter()
            float((left @ right.T)[0, 0])  # waits for a GPU too
            taken.append(time.perf_counter() - began)
        return min(taken)

    names: tuple[Products, ...] = ("bfloat16", "float32")
    return min(names, key=seconds)
