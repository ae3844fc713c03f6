"""Gradient boosted trees with XGBoost: a list of features in, a score and its reasons out.

A whole batch is computed in one step, on the GPU where there is one. The model's file names the
features it was trained on; one of another feature set is refused before anything is inferred.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import threadpoolctl

from overnight.engines.base import FAILURE, ROW
from overnight.engines.batch_queue import BatchQueue
from overnight.engines.cores import usable_cores
from overnight.engines.shallow_trees import ShallowTrees, exact_contributions
from overnight.engines.sizes import BatchSizes
from overnight.errors import ConfigError, EngineDied, ModelError
from overnight.registry import RegistryRef

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy.typing as npt
    import xgboost

    from overnight.model import ModelRef

    Matrix = npt.NDArray[np.float32]

MODEL_FILE = "model.json"
"""The file in a model's directory, as `Booster.save_model` writes it.

Of XGBoost's formats the one that can be checked before XGBoost sees it: given a truncated one in
its binary format, it may end the whole process.
"""

Device = Literal["auto", "cuda", "cpu"]

_DEVICES = ("auto", "cuda", "cpu")
_FEATURES = pa.list_(pa.float32())
_SCORED = pa.schema(
    [("score", pa.float32()), ("contributions", _FEATURES), ("model_version", pa.string())]
)
# A score and its contributions take about 1.5 us a row of a shallow model, and 30 us or more where
# they cannot be looked up: a batch is half a second of a core's work even then.
_SIZES = BatchSizes(batch_rows=16_384, window_rows=32_768)


@dataclass(frozen=True, slots=True, kw_only=True)
class XgboostScore:
    """Scores rows; the request is a list of float32, one for each feature.

    Attributes:
        model: `MODEL_FILE`, trained with feature names.
        features: what the numbers of a request are, in their order; the model's own.
        device: "auto" and "cuda" are a GPU where there is one and an XGBoost that can use it, else
            the CPU; XGBoost warns where "cuda" is not to be had.
        sizes: how the machine is used.
    """

    model: ModelRef | RegistryRef
    features: tuple[str, ...]
    device: Device = "auto"
    sizes: BatchSizes = _SIZES

    def __post_init__(self) -> None:
        if not self.features or len(set(self.features)) < len(self.features):
            raise ConfigError(
                f"XGBoost engine: features={self.features!r} must be names, each once"
            )
        if self.device not in _DEVICES:
            raise ConfigError(
                f"XGBoost engine: device={self.device!r} must be one of {', '.join(_DEVICES)}"
            )

    @property
    def kind(self) -> str:
        """The engine's name in lineage."""
        return "xgboost.score"

    @property
    def result_schema(self) -> pa.Schema:
        """What a finished row brings.

        `score` (float32) is the model's prediction: a probability for `binary:logistic`.
        `contributions` (list of float32) says how much each feature, in the order of
        `features`, moved it from the model's mean, in the unit of the margin (log-odds for
        `binary:logistic`): exact Shapley values, as XGBoost computes them (Lundberg et al.,
        "Consistent individualized feature attribution for tree ensembles", 2018).
        `model_version` (string) names the model.
        """
        return _SCORED

    @property
    def probe(self) -> list[float]:
        """A request that any healthy engine of this kind answers."""
        return [0.0] * len(self.features)

    def identity(self) -> dict[str, Any]:
        """Model digest and features.

        Where it is computed is left out: CPU and GPU differ in the last bits of a float only.

        Raises:
            ModelError: if the model is missing, its digest differs, or its card names other
                features.
        """
        model = self.model.resolve()
        if isinstance(self.model, RegistryRef) and self.model.chosen is not None:
            _check_features(model.uri, self.model.chosen.card.features, self.features)
        return {
            "kind": self.kind,
            "model": model.digest,
            "features": list(self.features),
        }

    def start(self) -> XgboostEngine:
        """Load the model.

        Raises:
            ModelError: if the model is missing, is not the declared one, is truncated, or was
                trained on other features.
        """
        return XgboostEngine(self)


class XgboostEngine:
    """A started `XgboostScore`."""

    def __init__(self, spec: XgboostScore) -> None:
        self.capacity = spec.sizes.window_rows
        self._features = spec.features
        self._threads = spec.sizes.threads or usable_cores()
        model = spec.model.resolve()
        self._version = model.version
        self._booster = load(model.path / MODEL_FILE, spec.features)
        # Ray gives a worker OMP_NUM_THREADS=1, above which XGBoost does not go whatever it is told.
        threadpoolctl.threadpool_limits(self._threads, user_api="openmp")
        self._booster.set_param({"nthread": self._threads})
        device = _place(self._booster, spec.device)
        # A GPU computes them about as fast as they can be looked up.
        self._trees = ShallowTrees.tabulate(self._booster) if device == "cpu" else None
        self._queue = BatchQueue(_FEATURES, spec.sizes.batch_rows)
        self._suspects: list[int] = []

    @property
    def in_flight(self) -> int:
        """Rows submitted and not handed back yet."""
        return len(self._queue)

    def submit(self, requests: pa.Table) -> None:
        """Append to the queue; lists of other numbers are cast to float32."""
        self._queue.add(requests)

    def step(self) -> pa.Table:
        """Compute the oldest batch.

        Raises:
            EngineDied: if XGBoost fails; every row of the batch is under suspicion.
        """
        rows, requests = self._queue.next()
        failures = _failures(requests, self._features)
        good = pc.is_null(failures)
        flat = (
            requests.filter(good) if failures.null_count < len(failures) else requests
        ).flatten()
        matrix = flat.to_numpy(zero_copy_only=False).reshape(-1, len(self._features))
        try:
            scores, contributions = self._predict(matrix)
        except Exception as error:
            self._suspects = rows.to_pylist()
            raise EngineDied(f"XGBoost failed: {error}") from error
        return pa.table(
            {
                ROW: rows,
                FAILURE: failures,
                "score": _spread(pa.array(scores), good),
                "contributions": _spread(_lists(contributions), good),
                "model_version": _spread(pa.repeat(self._version, len(matrix)), good),
            }
        )

    def abort(self, rows: Sequence[int]) -> None:
        """Forget these rows."""
        self._queue.forget(rows)

    def suspects(self) -> list[int]:
        """The rows of the step that died."""
        return self._suspects

    def stats(self) -> Mapping[str, float]:
        """Queue depth only."""
        return self._queue.stats()

    def close(self) -> None:
        """Nothing to free but memory."""

    def _predict(self, matrix: Matrix) -> tuple[Matrix, Matrix]:
        """Scores (rows) and contributions (rows, features)."""
        import xgboost

        if not len(matrix):
            return np.empty(0, np.float32), np.empty(matrix.shape, np.float32)
        if self._trees is not None:
            scores, contributions = self._trees.of(matrix)
            if scores is None:
                scores = self._booster.inplace_predict(matrix, validate_features=False)
            return scores, contributions
        data = xgboost.DMatrix(matrix, feature_names=list(self._features), nthread=self._threads)
        return self._booster.predict(data), exact_contributions(self._booster, data)


def load(file: Path, features: Sequence[str]) -> xgboost.Booster:
    """The model in a file, trained on these features.

    Raises:
        ModelError: if it cannot be read, is no whole model, or was trained on other features.
    """
    import xgboost

    try:
        raw = file.read_bytes()
    except OSError as error:
        raise ModelError(
            f"model {file}: cannot be read ({error.strerror}); an XGBoost model is a directory "
            f"with {MODEL_FILE}, as Booster.save_model writes it"
        ) from error
    booster = xgboost.Booster()
    try:
        json.loads(raw)
        booster.load_model(bytearray(raw))
    except (ValueError, xgboost.core.XGBoostError) as error:
        raise ModelError(
            f"model {file}: {len(raw)} bytes that are no XGBoost model; was it cut off? Put the "
            f"whole file there again ({str(error).splitlines()[0]})"
        ) from error
    _check_features(str(file), booster.feature_names or (), features)
    return booster


def _check_features(model: str, trained: Sequence[str], wanted: Sequence[str]) -> None:
    if tuple(trained) != tuple(wanted):
        raise ModelError(
            f"model {model}: was trained on other features: {_difference(trained, wanted)}; name "
            "its features in its order, or train it anew"
        )


def _difference(trained: Sequence[str], wanted: Sequence[str]) -> str:
    if not trained:
        return "it names none"
    only_model = [name for name in trained if name not in wanted]
    only_job = [name for name in wanted if name not in trained]
    if not only_model and not only_job:
        return f"the same ones in another order, {list(trained)}, and the job has {list(wanted)}"
    return f"only the model has {only_model}, only the job has {only_job}"


def _place(booster: xgboost.Booster, wanted: Device) -> str:
    """Have a model computed on the GPU, if that is wanted and there is one; where it is."""
    import xgboost

    # Where it finds no GPU, XGBoost takes the CPU and warns: of use to those who ask for CUDA.
    with xgboost.config_context(verbosity=1 if wanted == "cuda" else 0):
        booster.set_param({"device": "cpu" if wanted == "cpu" else "cuda"})
        parameters = json.loads(booster.save_config())["learner"]["generic_param"]
    device: str = parameters["device"].partition(":")[0]
    booster.set_param({"device": device})
    return device


def _failures(lists: pa.ListArray, features: Sequence[str]) -> pa.Array:
    """Why a request cannot be scored; null where it can. NaN is a value that is missing."""
    lengths = pc.fill_null(pc.list_value_length(lists), -1).to_numpy()
    wrong = np.flatnonzero(lengths != len(features))
    infinite = np.flatnonzero(np.isinf(lists.flatten().to_numpy(zero_copy_only=False)))
    if not len(wrong) and not len(infinite):
        return pa.nulls(len(lists), pa.string())
    reasons: list[str | None] = [None] * len(lists)
    for row in wrong:
        reasons[row] = (
            "null_request: the request is null"
            if lengths[row] < 0
            else f"wrong_features: {lengths[row]} numbers, the model takes {len(features)}"
        )
    parents = pc.list_parent_indices(lists).to_numpy()
    first = np.cumsum(np.maximum(lengths, 0)) - np.maximum(lengths, 0)
    for value in infinite:
        row = parents[value]
        if reasons[row] is None:
            reasons[row] = f"infinite: {features[value - first[row]]} is not a finite number"
    return pa.array(reasons, pa.string())


def _lists(matrix: Matrix) -> pa.Array:
    rows, width = matrix.shape
    offsets = np.arange(0, rows * width + 1, width, dtype=np.int32)
    return pa.ListArray.from_arrays(offsets, pa.array(matrix.ravel(), pa.float32()))


def _spread(values: pa.Array, good: pa.Array) -> pa.Array:
    """Give each good row its value, in their order, and the others null."""
    if len(values) == len(good):
        return values
    nth = pc.subtract(pc.cumulative_sum(good.cast(pa.int64())), 1)
    return values.take(pc.if_else(good, nth, pa.scalar(None, pa.int64())))
