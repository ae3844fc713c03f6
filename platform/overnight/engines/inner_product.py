"""The k items with the largest inner products with each query: exact, at the price of rough ones.

Products are computed in the numbers that the machine is fastest with, a block of queries and
items at a time, and how far they can be off is known. Only the best of each run of items is kept
of them: from these follows a score that the k-th best reaches at least, and most runs cannot
reach it. The others are computed again in float32, and the little that is left in float64. So
neither block sizes nor devices nor precision change a result, and the full matrix never exists.

A score is the inner product in float64, rounded to float32; of equal scores the smaller item
number comes first.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from overnight.engines import rough_products

if TYPE_CHECKING:
    import torch

    from overnight.engines.rough_products import Products

__all__ = ["NO_ITEM", "ItemIndex"]

Matrix = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

NO_ITEM = -1

_RUNS = 512
_RUNS_FOR_EACH = 4
"""Runs at least, and for each of the k wanted: with fewer, the bound from their best is loose."""
_QUERIES = {"cpu": 1 << 11, "cuda": 1 << 13}
_FEWEST = 128
"""Queries that a thread takes at once at most, and those that are worth its while."""
_SCORES = {"cpu": 1 << 20, "cuda": 1 << 28}
"""Rough scores that a thread holds at once; on CPU they stay in its cache."""
_KEPT = {"cpu": 1 << 23, "cuda": 1 << 27}
"""Scores computed again that a thread holds at once."""
_EXACT_ROWS = 1 << 10
"""Products computed in float64 at once, so that they stay in a core's cache."""
_UNIT = 2.0**-24
"""The largest relative error of rounding to float32."""
_TINY = 2.0**-126
"""A float32 below it may count as zero."""
_NOTHING = -(2**63)


class ItemIndex:
    """Items to search among; `close` ends its threads.

    Args:
        vectors: one for each item, (items, factors), finite.
        k: how many items to find, at least 1.
        threads: blocks computed at once on CPU.
        device: "cuda", "cpu", or "auto" for a GPU where there is one.
        products: what to multiply in; None for what a trial shows to be fastest here. It is
            float32 where this CPU gets products of int8 wrong.
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
            torch.backends.cuda.matmul.allow_tf32 = False
            threads = 1
        self._device = torch.device(device)
        self._threads = threads
        self._k = k
        self._items, self._factors = vectors.shape
        # Blocks are computed side by side, so that nothing is serial in between; how many
        # threads torch takes is said in each thread.
        self._pool = ThreadPoolExecutor(threads, "overnight-top-k", torch.set_num_threads, (1,))
        if products is None:
            trial = self._pool.submit(rough_products.fastest, self._device, self._factors)
            products = trial.result()
        if products == "int8" and not rough_products.int8_adds_up():
            products = "float32"
        self.products: Products = products
        # Beyond the sums' own errors: storing one in bfloat16; a margin covers what is computed
        # from these numbers.
        self._rounding = 2**-7.9 if self.products == "bfloat16" else 2.0**-21
        self._local = threading.local()
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
        shares = max(_FEWEST, -(-len(queries) // self._threads))
        step = max(1, min(shares, _QUERIES[kind], _SCORES[kind] // self._width))

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
        """Put the longest vectors first, in runs, and say of each run how far it can be off."""
        import torch

        least = max(_RUNS, _RUNS_FOR_EACH * self._k)
        self._run = 1
        while 2 * self._run * least <= self._items:
            self._run *= 2
        kind = self._device.type
        self._width = max(1, _SCORES[kind] // _QUERIES[kind] // self._run) * self._run
        order = vectors.double().norm(dim=1).argsort(descending=True, stable=True)
        self._padding = -self._items % self._run
        exact = torch.cat([vectors[order], vectors.new_zeros(self._padding, self._factors)])
        rough, scale = rough_products.roughened(
            exact.view(-1, self._run * self._factors), self.products
        )
        off, length = rough_products.off_and_length(exact, (rough * scale).view_as(exact))
        bounds = [part.view(-1, self._run).amax(1) for part in (off, length)]
        self._bounds = torch.stack(bounds).float().to(self._device)
        self._scale = scale[:, 0].to(self._device)
        rough = rough_products.numbers(rough.view_as(exact), self.products).to(self._device)
        self._exact = exact.to(self._device)
        self._parts = [part.T for part in torch.split(rough, self._width)]
        self._runs = [part.T for part in torch.split(self._exact, self._run)]
        place = torch.empty_like(order)
        place[order] = torch.arange(self._items)
        self._place = place.to(self._device)
        self._number = torch.cat([order, order.new_zeros(self._padding)]).to(self._device)

    def _block(self, queries: Matrix, owner: Ints, excluded: Ints) -> tuple[Any, Any]:
        """`best` for a few queries: `owner` says whose each of `excluded` is."""
        import torch

        exact = torch.from_numpy(queries).to(self._device)
        rough, scale = rough_products.roughened(exact, self.products)
        # |q.v - q~.v~| <= |q~||v - v~| + |q - q~||v|, and what summing and rounding add.
        off, length = rough_products.off_and_length(exact, rough * scale)
        summing = 2 * (self._factors + 4) * _UNIT * length
        reach = torch.stack([length, off + summing], dim=1).float()
        rows = torch.from_numpy(owner).to(self._device)
        places = self._place.index_select(0, torch.from_numpy(excluded).to(self._device))
        asking = rough_products.numbers(rough, self.products)
        best = self._best_of_runs(asking, rows, places).mul_(scale).mul_(self._scale)
        tiny = 4 * self._factors * _TINY
        error = torch.addmm(best.abs(), reach, self._bounds, beta=self._rounding).add_(tiny)
        floor = _kth(best - error, self._k)
        wanted = best + error >= floor[:, None]
        # What an item of the k best has in float32 at least; the second line rounds down.
        asked = floor - (summing * self._bounds[1].amax()).float() - tiny
        asked = (asked - asked.abs() * 2.0**-20).clamp_(min=torch.finfo(torch.float32).min)
        keys = []
        first = 0
        full = wanted.sum(1).cumsum(0) * self._run // _KEPT[self._device.type]
        for count in filter(None, full.bincount().tolist()):
            some = slice(first, first + count)
            mine = (rows >= first) & (rows < first + count)
            keys.append(
                self._keys(exact[some], asked[some], wanted[some], rows[mine] - first, places[mine])
            )
            first += count
        return self._decoded(torch.cat(keys))

    def _best_of_runs(
        self, queries: torch.Tensor, rows: torch.Tensor, places: torch.Tensor
    ) -> torch.Tensor:
        """The best product of each query in each run, (queries, runs), float32.

        Args:
            queries: see `rough_products.numbers`.
            rows: the query that each excluded item is excluded for.
            places: where these items are.
        """
        import torch

        count = len(queries)
        kind = rough_products.given_in(queries.dtype)
        nothing = -(2**31) if kind == torch.int32 else -torch.inf
        part = places // self._width
        width = torch.where(part < len(self._parts) - 1, self._width, self._parts[-1].shape[1])
        where = (rows * width + places % self._width).index_select(0, part.argsort())
        hidden = torch.split(where, torch.bincount(part, minlength=len(self._parts)).tolist())
        held = self._held("products", count * self._width, kind)
        best = torch.empty(count, len(self._runs), device=self._device)
        first = 0
        for vectors, hide in zip(self._parts, hidden, strict=True):
            products = held[: count * vectors.shape[1]].view(count, -1)
            rough_products.multiply(queries, vectors, products)
            products.view(-1).index_fill_(0, hide, nothing)
            if self._padding and vectors is self._parts[-1]:
                products[:, -self._padding :] = nothing
            last = first + vectors.shape[1] // self._run
            best[:, first:last] = products.view(count, -1, self._run).amax(2)
            first = last
        return best.masked_fill_(best == nothing, -torch.inf)

    def _held(self, what: str, count: int, kind: torch.dtype) -> torch.Tensor:
        """This thread's memory, used again: new memory costs more than the sums."""
        import torch

        held = getattr(self._local, what, None)
        if held is None or len(held) < count:
            held = torch.empty(count, dtype=kind, device=self._device)
            setattr(self._local, what, held)
        return held[:count]

    def _keys(
        self,
        queries: torch.Tensor,
        asked: torch.Tensor,
        wanted: torch.Tensor,
        rows: torch.Tensor,
        places: torch.Tensor,
    ) -> torch.Tensor:
        """The k best of each query, as `_keyed` numbers them.

        Args:
            queries: (queries, factors).
            asked: a score in float32 must be as high to be among them, (queries).
            wanted: the runs in which some may be, (queries, runs).
            rows: the query that each excluded item is excluded for.
            places: where these items are.
        """
        import torch

        count, runs = wanted.shape
        run, row = _divided(_nonzero(wanted.T), count)
        counts = torch.bincount(run, minlength=runs).tolist()
        scores = self._held("scores", len(run) * self._run, torch.float32).view(-1, self._run)
        asking = torch.split(queries.index_select(0, row), counts)
        places_of = torch.split(scores, counts)
        for vectors, some, out in zip(self._runs, asking, places_of, strict=True):
            if len(some):
                torch.mm(some, vectors, out=out)
        if self._padding and counts[-1]:
            scores[-counts[-1] :, -self._padding :] = -torch.inf
        line = torch.full((count * runs,), -1, device=self._device)
        line[row * runs + run] = torch.arange(len(run), device=self._device)
        of, within = _divided(places, self._run)
        lines = line.index_select(0, rows * runs + of)
        hide = (lines * self._run + within)[lines >= 0]
        scores.view(-1).index_fill_(0, hide, -torch.inf)
        hits = _nonzero(scores >= asked.index_select(0, row)[:, None])
        lines, within = _divided(hits, self._run)
        row, order = row.index_select(0, lines).sort(stable=True)
        place = (run.index_select(0, lines) * self._run + within).index_select(0, order)
        found = _in_rows(row, self._keyed(queries.double(), row, place), count)
        return _top(torch.nn.functional.pad(found, (0, self._k), value=_NOTHING), self._k)

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


def _reorder(bits: torch.Tensor) -> torch.Tensor:
    """Give floats' bits, in place, the order of the floats; doing it again takes it back."""
    return bits.bitwise_xor_((bits >> 31).bitwise_and_(0x7FFFFFFF))


def _divided(numbers: torch.Tensor, by: int) -> tuple[torch.Tensor, torch.Tensor]:
    return numbers // by, numbers % by


def _kth(values: torch.Tensor, k: int) -> torch.Tensor:
    """The k-th largest of each row; minus infinity where there are fewer."""
    import torch

    if values.shape[1] < k:
        return torch.full((len(values),), -torch.inf, device=values.device)
    if values.device.type == "cpu":
        return torch.from_numpy(np.partition(values.numpy(), -k, axis=1)[:, -k].copy())
    return values.topk(k, dim=1).values[:, -1]


def _score(keys: torch.Tensor) -> torch.Tensor:
    import torch

    return _reorder((keys >> 32).int()).view(torch.float32)


def _nonzero(mask: torch.Tensor) -> torch.Tensor:
    """Where a mask is true, as positions in a row; NumPy takes half of torch's time on CPU."""
    import torch

    if mask.device.type == "cpu":
        return torch.from_numpy(np.flatnonzero(mask.numpy()))
    return mask.flatten().nonzero()[:, 0]


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
