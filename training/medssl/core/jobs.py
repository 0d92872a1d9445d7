"""Configuration of jobs: frozen dataclasses, stored as JSON beside their results."""

from __future__ import annotations

import dataclasses
import difflib
import typing
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from msgspec import Meta

from medssl.core import migrations, typed
from medssl.core.errors import UserError
from medssl.core.files import usable_in_paths
from medssl.core.json_files import read_json, write_json

Precision = Literal["fp32", "bf16"]
SemiSupervised = Literal["self_training", "pseudo_contrast", "both", "none"]
T = TypeVar("T")
MINUTES = 5.0
"""Duration of a training whose job gives neither minutes nor steps."""
MAX_SEED = 2**32 - 1
ORDERED = "ordered"
"""Marks the type of a setting whose first number is not larger than its second one."""


@dataclass(frozen=True)
class Plan:
    """Network and sampling configuration, chosen by tasks/plan and stored with the weights.

    "Work order" is the canonical (z, y, x) with `slice_axis` moved to the front, so that slices always lie
    along the first axis: (slice, row, column).
    """

    dims: Annotated[int, Meta(ge=2, le=3)]
    """2 for 2.5D (neighbouring slices as channels, 2D convolutions) or 3."""
    slice_axis: Annotated[int, Meta(ge=0, le=2)]
    """Canonical axis across slices: 0 axial, 1 coronal, 2 sagittal."""
    spacing_mm: tuple[float, float, float]
    """Voxel spacing of the network's grid in work order; 0 across slices in 2.5D, which does not resample
    there."""
    patch_vox: tuple[int, int, int]
    """Size of a crop in work order; in 2.5D the first number is the number of input slices."""
    batch: Annotated[int, Meta(ge=1)]
    channels: tuple[int, ...]
    """Feature channels per resolution level, finest first."""
    strides: tuple[tuple[int, ...], ...]
    """Downsampling factors at the start of each level (1 at the first)."""
    precision: Precision = "fp32"
    threads: Annotated[int, Meta(ge=1)] = 2
    multiplanar: bool = False
    """Whether a 2.5D network was trained on slices across other axes than `slice_axis`, too."""
    smoothing_sigma_mm: float = 0.0
    """Sigma of the spatial smoothing of class posteriors (inference/posterior_smoothing.py)."""
    channel_names: tuple[str, ...] = ()
    """Channels of a scan that are the network's input, in this order; empty for its first image alone."""

    @property
    def n_channels(self) -> int:
        """Number of images of a scan that the network takes."""
        return max(1, len(self.channel_names))

    @property
    def in_channels(self) -> int:
        """Number of input channels of the network: in 2.5D all slices of the first image, then the next."""
        return self.n_channels * (self.patch_vox[0] if self.dims == 2 else 1)

    @property
    def work_axes(self) -> tuple[int, int, int]:
        """Canonical axes in work order, e.g. (1, 0, 2) for coronal slices."""
        rest = [axis for axis in range(3) if axis != self.slice_axis]
        return (self.slice_axis, rest[0], rest[1])


@dataclass(frozen=True)
class Job:
    """Fields of all jobs."""

    project: str
    """Path of the project folder."""
    seed: Annotated[int, Meta(ge=0, le=MAX_SEED)] = 0
    """Random numbers follow from it: the same seed repeats a run."""
    device: str = "auto"
    """auto (the GPU where there is one), cpu, cuda, cuda:1 or mps."""


@dataclass(frozen=True)
class TrainingJob(Job):
    """A training: it ends after `steps`, after `minutes`, or on request."""

    minutes: Annotated[float, Meta(gt=0)] | None = None
    steps: Annotated[int, Meta(ge=1)] | None = None
    resume: str | None = None
    """Run to resume from its last checkpoint; all other fields are then taken from that run."""
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Settings that override the recipe, by name (e.g. {"learning_rate": 1e-3})."""
    with_names: bool = False
    """Write paths and the names of scans, which may be those of patients, into the card of the weights."""


@dataclass(frozen=True)
class PretrainJob(TrainingJob):
    """Self-supervised pre-training on the project's scans, except held-out ones."""

    method: str = "pgl"
    recipe: str = "quick"
    weights: str | None = None
    """Initial weights: "shapes" (the shipped weights), "random", or a run; None for the recipe's default."""


@dataclass(frozen=True)
class FinetuneJob(TrainingJob):
    """Segmentation training on annotated voxels, then prediction of `predict_scans`."""

    weights: str | None = "shapes"
    """Initial weights: "shapes" (the shipped weights), "random", a pre-training run, or, to continue, a
    fine-tuning run. None, as in earlier job files, means random."""
    recipe: str = "quick"
    semi_supervised: SemiSupervised = "self_training"
    """Semi-supervised losses on voxels without annotation (see semi_supervised.py)."""
    predict_scans: tuple[str, ...] = ()


@dataclass(frozen=True)
class PredictJob(Job):
    """Prediction of scans with a fine-tuned network; empty `scans` means all scans of the project."""

    weights: str = ""
    scans: tuple[str, ...] = ()
    only_missing: bool = False
    """Leave out scans with a current prediction and its expected Dice."""
    probabilities: bool = False
    """Also save class probabilities and uncertainty (probabilities.py)."""


@dataclass(frozen=True)
class FeaturesJob(Job):
    """Dense features of scans, cached for similarity maps; empty `scans` means all scans without features."""

    weights: str = ""
    scans: tuple[str, ...] = ()


@dataclass(frozen=True)
class ExportJob(Job):
    """Export of segmentations on the source grids; empty `scans` means all scans of the project."""

    folder: str = ""
    ending: str = ".nii.gz"
    weights: str | None = None
    """Fine-tuning run whose prediction fills voxels without annotation; None exports annotations alone."""
    scans: tuple[str, ...] = ()
    largest: bool = False
    drop_ml: Annotated[float, Meta(ge=0)] = 0.0
    fill_holes: bool = False
    """`largest`, `drop_ml` and `fill_holes`: postprocessing of predictions, see
    postprocess.Postprocessing."""
    overwrite: bool = False
    """Replace files that are not earlier exports."""
    with_names: bool = False
    """Write paths and the names of scans, which may be those of patients, into the records."""
    stl: bool = False
    """Also write the surface of each class as an STL file."""


@dataclass(frozen=True)
class ExportWeightsJob(Job):
    """Export of a fine-tuned network for other programs, see export/portable.py; it runs on the CPU."""

    weights: str = ""
    path: str = ""
    """File that ends with .onnx, or else the folder of a MONAI bundle; it does not exist yet."""


@dataclass(frozen=True)
class SuggestJob(Job):
    """Suggestion of slices to annotate next, in all scans that are not held out."""

    count: Annotated[int, Meta(ge=1)] = 10
    weights: str | None = None
    """Run whose network scores the slices; None for the newest fine-tuning, else pre-training, else no
    network."""


@dataclass(frozen=True)
class EstimateJob(Job):
    """Estimate of steps, time and memory of a training from a few of its steps."""

    training: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Job of the training, as `to_json` makes it."""


JOBS: dict[str, type[Job]] = {
    "pretrain": PretrainJob,
    "finetune": FinetuneJob,
    "predict": PredictJob,
    "features": FeaturesJob,
    "suggest": SuggestJob,
    "export": ExportJob,
    "export-weights": ExportWeightsJob,
    "estimate": EstimateJob,
}

TRAININGS = {"pretrain": "pre-training", "finetune": "fine-tuning"}
"""{kind of a run: what a sentence calls it}."""


def kind_of(job: Job) -> str:
    """Name of a job in files and on the command line: "pretrain", "finetune", ..."""
    return next(name for name, kind in JOBS.items() if type(job) is kind)


def to_json(value: Any) -> dict[str, Any]:
    """A configuration dataclass as JSON values; a Job has its name under "job"."""
    fields = dataclasses.asdict(value)
    return {"job": kind_of(value), **fields} if isinstance(value, Job) else fields


def write_job(path: Path, job: Job) -> None:
    """Write a job file, atomically."""
    write_json(path, to_json(job))


def read_job(path: Path) -> Job:
    """Read a job file.

    Raises UserError ("bad-job") naming the first thing that is wrong with it.
    """
    return job_of(read_json(path), where=str(path))


def job_of(value: Any, where: str) -> Job:
    """A job from what `to_json` made of it.

    Raises UserError ("bad-job") naming `where` and the first thing that is wrong with it.
    """
    if not isinstance(value, dict) or value.get("job") not in list(JOBS):
        raise UserError(
            f'{where} is not a job file; it needs a field "job" with one of {", ".join(JOBS)}.',
            code="bad-job",
        )
    fields = {name: item for name, item in migrations.job(value).items() if name != "job"}
    for name, item in fields.items():
        if isinstance(item, str) and not usable_in_paths(item):
            raise UserError(
                f"{where} has a character at {name!r} that no file name can have; correct it.", code="bad-job"
            )
    return from_json(JOBS[value["job"]], fields, where)


def settings_of(kind: type[T], values: dict[str, Any]) -> T:
    """Build a settings dataclass from the values of a recipe and a job.

    Args:
        kind: The dataclass.
        values: {name: value}.

    Raises:
        UserError: "bad-job": a name is unknown or a value does not fit.
    """
    names = typing.get_type_hints(kind, include_extras=True)
    for name in values:
        if name not in names:
            raise UserError(f"There is no setting {name!r} here; {_instead(name, names)}.", code="bad-job")
    made = typed.convert(kind, values, "A setting", advice="write another value")
    for name in values:
        given = getattr(made, name)
        metas = getattr(names[name], "__metadata__", ())
        if any((meta.extra or {}).get(ORDERED) for meta in metas) and given[0] > given[1]:
            raise UserError(
                f"A setting does not fit at {name!r}: {given[0]:g} is larger than {given[1]:g}; write the "
                "smaller number first.",
                code="bad-job",
            )
    return made


def _instead(name: str, known: Iterable[str]) -> str:
    """What to do about the unknown name of a setting."""
    today = next(iter(migrations.settings({name: None})))
    if today in known:
        return f"it is called {today!r} now"
    similar = "".join(f"the most similar is {each!r}, " for each in difflib.get_close_matches(name, known, 1))
    return f"{similar}medssl methods METHOD (or finetune) lists those of a method"


def from_json(kind: type[T], fields: Any, where: str) -> T:
    """Build a config dataclass from JSON fields; names and types must fit.

    Raises UserError ("bad-job") that names `where` and the offending field.
    """
    names = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    for name in fields if isinstance(fields, dict) else ():
        if name not in names:
            raise UserError(
                f"{where} has an unknown field {name!r}; known are {', '.join(names)}.", code="bad-job"
            )
    return typed.convert(kind, fields, where)
