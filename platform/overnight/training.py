"""Training a model, judging it against the one in service, and only then letting jobs use it.

Both are judged by the same function on the same rows, which neither was trained on. How they
are trained and judged is the declaration's; where they are kept is for `overnight.registry`.
"""

from __future__ import annotations

import datetime as dt
import logging
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from overnight.audit import Check
from overnight.errors import ConfigError, ModelError
from overnight.landing.spool import LandedRows
from overnight.model_version import ModelCard, check_names
from overnight.scratch import scratch_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import polars as pl

    from overnight.landing import InputFile, Lookback
    from overnight.registry import ModelVersion, Registry
    from overnight.store import StoreConfig

NOT_WORSE = "not_worse"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """What training gives.

    Attributes:
        files: the model's files, by name.
        features: the columns it reads, in its order.
        first_day: the first day of the data it was trained from, an ISO date.
        last_day: the last one.
        held_out: what models are judged on; handed to `judge` as it is.
        parameters: how it was trained; JSON-able.
    """

    files: Mapping[str, bytes]
    features: tuple[str, ...]
    first_day: str
    last_day: str
    held_out: Any
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedModel:
    """A declaration of a model that is trained here.

    Attributes:
        name: names the model in the registry, and the asset that trains it.
        inputs: what is read, relative to the last day of the partition.
        train: given that day (an ISO date) and a frame for each source by its name, as
            `DerivedSource.derive` gets them, the trained model.
        judge: given a directory with a model's files and what was held out, metrics by name;
            higher is better. A `ModelError` says that the model cannot be judged.
        metric: the one that decides.
        margin: how much lower it may be than that of the model in service.
        at_least: metrics below which no model goes into service.

    Raises:
        ConfigError: if the name or the margin cannot be used.
    """

    name: str
    inputs: tuple[Lookback, ...]
    train: Callable[[str, Mapping[str, pl.LazyFrame]], Trained]
    judge: Callable[[Path, Any], Mapping[str, float]]
    metric: str
    margin: float = 0.0
    at_least: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_names(self.name, {"model": None})
        if self.margin < 0:
            raise ConfigError(f"model {self.name!r}: margin is {self.margin}, must be >= 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingReport:
    """What became of a training.

    Attributes:
        version: the trained version, saved.
        metrics: its metrics on what was held out.
        before: the version that was in service, if one was.
        before_metrics: its metrics on the same rows; empty if it could not be judged.
        check: whether the trained one is good enough, and why; if so it is in service now.
    """

    version: ModelVersion
    metrics: Mapping[str, float]
    before: ModelVersion | None
    before_metrics: Mapping[str, float]
    check: Check


def train_model(
    model: TrainedModel,
    day: str,
    *,
    store: StoreConfig,
    registry: Registry,
    scratch: Path,
    clock: Callable[[], dt.datetime] = lambda: dt.datetime.now(tz=dt.UTC),
) -> TrainingReport:
    """Train a model, save it, and put it in service unless it is worse than the one there.

    Doing it again, as after a kill, gives the same version if `train` is deterministic.

    Args:
        model: what to train.
        day: the last day whose data may be used, an ISO date.
        store: the landing zone.
        registry: where models are kept.
        scratch: a local directory for what is needed only meanwhile.
        clock: the time, aware.

    Raises:
        NotLandedError: if a day that is required has not landed.
        ModelError: if the trained model cannot be judged.
        ModelInServiceError: if another model was put in service meanwhile; try again.
    """
    with scratch_folder(scratch, model.name) as folder:
        trained, inputs = _train(model, day, store, folder)
        metrics = _judge(model, _written(trained, folder), trained.held_out)
    version = registry.save(
        model.name,
        files=trained.files,
        card=ModelCard(
            first_day=trained.first_day,
            last_day=trained.last_day,
            features=trained.features,
            metrics=metrics,
            parameters=trained.parameters,
            inputs=tuple(sorted(file.digest for file in inputs)),
            created_at=clock(),
        ),
    )
    before = registry.in_service(model.name)
    before_metrics: Mapping[str, float] = {}
    if before is not None:
        try:
            before_metrics = _judge(model, before.fetch(), trained.held_out)
        except ModelError as error:
            # What cannot be judged serves nobody: it is no reason to keep its place.
            log.warning("%s, which is in service, cannot be judged: %s", before.uri, error)
    check = _compared(model, version, metrics, before, before_metrics)
    if check.passed:
        registry.put_in_service(model.name, version, instead_of=before)
    return TrainingReport(
        version=version,
        metrics=metrics,
        before=before,
        before_metrics=before_metrics,
        check=check,
    )


def _train(
    model: TrainedModel, day: str, store: StoreConfig, folder: Path
) -> tuple[Trained, list[InputFile]]:
    with tempfile.TemporaryDirectory(dir=folder) as spool:
        landed = LandedRows(store.open(), model.inputs, day, Path(spool))
        rejected = sum(rejects.height for rejects in landed.read())
        if rejected:
            log.warning(
                "%s %s: left out %d rows that broke their contract", model.name, day, rejected
            )
        return model.train(day, landed.frames), landed.inputs


def _written(trained: Trained, folder: Path) -> Path:
    directory = folder / "model"
    directory.mkdir()
    for name, data in trained.files.items():
        (directory / name).write_bytes(data)
    return directory


def _judge(model: TrainedModel, directory: Path, held_out: Any) -> Mapping[str, float]:
    metrics = {name: float(value) for name, value in model.judge(directory, held_out).items()}
    missing = sorted({model.metric, *model.at_least} - metrics.keys())
    if missing:
        raise ConfigError(
            f"model {model.name!r}: judge gives no {missing}; it gives {sorted(metrics)}"
        )
    return metrics


def _compared(
    model: TrainedModel,
    version: ModelVersion,
    metrics: Mapping[str, float],
    before: ModelVersion | None,
    before_metrics: Mapping[str, float],
) -> Check:
    name, value = model.metric, metrics[model.metric]
    figures: dict[str, Any] = {"version": version.version, name: value, "margin": model.margin}
    low = [
        f"{floor} is {metrics[floor]:.4f}, must be >= {least:.4f}"
        for floor, least in model.at_least.items()
        if not metrics[floor] >= least
    ]
    if before is None or not before_metrics:
        why = "none was in service" if before is None else f"{before.version} cannot be judged"
        words = f"version {version.version} has {name} {value:.4f}; {why}"
        worse = False
    else:
        figures |= {"in_service": before.version, f"{name}_in_service": before_metrics[name]}
        words = (
            f"version {version.version} has {name} {value:.4f} on held-out data, {before.version} "
            f"in service {before_metrics[name]:.4f}; up to {model.margin:.4f} less is allowed"
        )
        worse = not value >= before_metrics[name] - model.margin
    if worse or low:
        words = "; ".join([words, *low, "it does not go into service"])
    return Check(NOT_WORSE, passed=not (worse or low), message=words, figures=figures)
