"""A factor model of items: what a recommender learned, as a file, and what it makes of a history.

The model is that of Hu, Koren, Volinsky, "Collaborative Filtering for Implicit Feedback Datasets",
2008: each item has a vector, and somebody's vector is the one that fits his history best, given
those of the items (equation 4). So the file holds no people: who came since the model was trained
is served like everybody else, with all that he has done by now.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from overnight.errors import ModelError

if TYPE_CHECKING:
    from pathlib import Path

    Matrix = npt.NDArray[np.float32]
    Ints = npt.NDArray[np.int64]

__all__ = ["FILE", "FactorModel", "FoldIn"]

FILE = "items.arrow"
"""The file in a model's directory, in Arrow's IPC format; a row for each item."""

_COLUMNS = ["item_id", "popularity", "factors"]
_DIMENSIONS = 2
_PARAMETERS = ("regularization", "alpha")


@dataclass(frozen=True, slots=True, kw_only=True)
class FactorModel:
    """Items and their vectors.

    Attributes:
        item_ids: (items), ascending.
        factors: (items, factors).
        popularity: (items), what to show somebody without a history: the highest first.
        regularization: as it was trained with.
        alpha: confidence in an interaction is 1 + alpha * its weight.

    Raises:
        ModelError: if the parts do not belong together.
    """

    item_ids: Ints
    factors: Matrix
    popularity: Matrix
    regularization: float
    alpha: float

    def __post_init__(self) -> None:
        problem = self._problem()
        if problem:
            raise ModelError(f"factor model: {problem}")

    def write(self) -> bytes:
        """The bytes of `FILE`: the same for the same model."""
        width = self.factors.shape[1]
        table = pa.table(
            {
                "item_id": pa.array(self.item_ids, pa.int64()),
                "popularity": pa.array(self.popularity, pa.float32()),
                "factors": pa.FixedSizeListArray.from_arrays(
                    pa.array(self.factors.ravel(), pa.float32()), width
                ),
            }
        )
        known = {name: repr(getattr(self, name)) for name in _PARAMETERS}
        sink = io.BytesIO()
        with pa.ipc.new_file(sink, table.schema.with_metadata(known)) as writer:
            writer.write_table(table)
        return sink.getvalue()

    @classmethod
    def read(cls, directory: Path) -> FactorModel:
        """The model in a directory.

        Raises:
            ModelError: if the file is missing, truncated, or holds something else.
        """
        file = directory / FILE
        try:
            data = file.read_bytes()
        except OSError as error:
            raise ModelError(
                f"model {file}: cannot be read ({error.strerror}); a factor model is a directory "
                f"with {FILE}, as FactorModel.write makes it"
            ) from error
        try:
            table = pa.ipc.open_file(data).read_all().combine_chunks()
        except (pa.ArrowException, OSError) as error:
            raise ModelError(
                f"model {file}: {len(data)} bytes that are no whole Arrow file; was it cut off? "
                f"Put the whole file there again ({error})"
            ) from error
        try:
            return cls(**_arrays(table), **_parameters(table))
        except (ModelError, ValueError, TypeError) as error:
            raise ModelError(
                f"model {file}: has another shape than a factor model: {error}; train it anew"
            ) from error

    def place(self, items: Ints) -> Ints:
        """Where items stand in the model; -1 for those that it does not know."""
        at = np.searchsorted(self.item_ids, items)
        at[at == len(self.item_ids)] = 0
        return np.where(self.item_ids[at] == items, at, -1)

    def _problem(self) -> str | None:
        items = len(self.item_ids)
        if not self.factors.size or self.factors.ndim != _DIMENSIONS:
            return f"{items} items with factors of shape {self.factors.shape}"
        if len(self.factors) != items or self.popularity.shape != (items,):
            return (
                f"{items} items, {len(self.factors)} vectors, popularity of shape "
                f"{self.popularity.shape}"
            )
        if (np.diff(self.item_ids) <= 0).any():
            return "its item ids are not ascending, each once"
        if not (np.isfinite(self.factors).all() and np.isfinite(self.popularity).all()):
            return "factors or popularity hold what is no finite number"
        return None


class FoldIn:
    """Finds the vectors that fit histories best, with `implicit`'s own solver.

    Args:
        model: the items.
        threads: to use at once.
    """

    def __init__(self, model: FactorModel, *, threads: int) -> None:
        import threadpoolctl
        from implicit.cpu.als import AlternatingLeastSquares

        self._model = model
        # Each history is solved by one thread; a BLAS with threads of its own would slow them all.
        self._blas = threadpoolctl.ThreadpoolController()
        with self._blas.limit(limits=1, user_api="blas"):
            self._solver = AlternatingLeastSquares(
                factors=model.factors.shape[1],
                regularization=model.regularization,
                num_threads=threads,
            )
        self._solver.item_factors = model.factors

    def vectors(self, starts: Ints, places: Ints, weights: Matrix) -> Matrix:
        """The vector of each history.

        Args:
            starts: where each history begins in `places`, and where the last one ends.
            places: items, as `FactorModel.place` gives them: none unknown, each once.
            weights: how much each interaction says, above 0.

        Returns:
            (histories, factors); zero for an empty history.
        """
        import scipy.sparse

        shape = (len(starts) - 1, len(self._model.item_ids))
        confidence = (1 + self._model.alpha * weights).astype(np.float32)
        histories = scipy.sparse.csr_matrix((confidence, places, starts), shape=shape)
        with self._blas.limit(limits=1, user_api="blas"):
            found: Matrix = self._solver.recalculate_user(np.arange(shape[0]), histories)
        return found


def _arrays(table: pa.Table) -> dict[str, Any]:
    schema = {column.name: column.type for column in table.schema}
    if list(schema) != _COLUMNS or not pa.types.is_fixed_size_list(schema["factors"]):
        raise ValueError(f"it has the columns {table.schema.names}, not {_COLUMNS}")
    factors = table["factors"].combine_chunks()
    width = schema["factors"].list_size
    return {
        "item_ids": _numbers(table["item_id"], np.int64),
        "popularity": _numbers(table["popularity"], np.float32),
        "factors": _numbers(factors.flatten(), np.float32).reshape(-1, width),
    }


def _numbers(column: Any, kind: Any) -> npt.NDArray[Any]:
    if column.null_count:
        raise ValueError("some values are null")
    values = column.to_numpy()
    if values.dtype != kind:
        raise ValueError(f"it has {values.dtype} where {np.dtype(kind)} is expected")
    return np.array(values)  # the file's own memory is read-only, which not everybody can use


def _parameters(table: pa.Table) -> dict[str, Any]:
    known = table.schema.metadata or {}
    missing = [name for name in _PARAMETERS if name.encode() not in known]
    if missing:
        raise ValueError(f"it does not say its {missing}")
    return {name: float(known[name.encode()]) for name in _PARAMETERS}
