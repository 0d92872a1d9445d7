"""Which slice to paint next, in which scan, and why: the job behind the viewer's "Next slice".

Query by committee (Seung et al., COLT 1992) where there is a fine-tuned network (uncertainty.py), coverage
of all slices by those that are painted (coverage.py). Before any fine-tuning coverage alone decides: in the
features of the newest pre-training, and without one in the grey values of small pictures.

Scans that are held out are never suggested, nor are complete slices or slices that hold nothing but air.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from medssl.core.active_learning import coverage, slices
from medssl.core.active_learning.slices import ScoredSlices, Suggestion
from medssl.core.errors import UserError
from medssl.core.events import Emit, Progress, Started
from medssl.core.jobs import SuggestJob
from medssl.core.project.project import Project, Run
from medssl.core.project.runs import refuse_collapsed

PIXELS_CPU, PIXELS_GPU = 1_000_000, 200_000_000
"""How much of the scans is looked at: half a minute of one core, seconds of a GPU."""
REACH, REACH_SLICES = 0.05, 1.5
"""How far a slice says what its neighbours look like: of the scan's length, and at least in slices."""
NEW = 0.5
"""From this novelty on, nothing like a slice is painted."""
UNSURE = 0.5
"""Share of the largest doubt from which on a slice is worth painting for its doubt."""


def suggest(
    project: Project, job: SuggestJob, emit: Emit, should_stop: Callable[[], bool]
) -> dict[str, object]:
    """Rank slices; {"run": id or None, "suggestions": [...], "stopped": ...}, the best one first.

    Raises UserError ("no-scans", "nothing-left", "bad-job", and what a run's checkpoint may lack).
    """
    if job.count < 1:
        raise UserError(f"{job.count} slices cannot be suggested; ask for one or more.", code="bad-job")
    scans = [scan.id for scan in project.scans.values() if not scan.held_out]
    if not scans:
        raise UserError(
            f"{project.root} has no scan to suggest slices of; add scans, or hold fewer of them out.",
            code="no-scans",
        )
    run = project.run(job.weights) if job.weights else newest_weights(project)
    if run is not None:
        refuse_collapsed(run)
    emit(Started(run.id if run else ""))
    eye = _slice_scorer(project, run, scans, job.device)
    chosen = list(slices.sample(project, scans, eye.axis, eye.pixels, np.random.default_rng(job.seed)))
    scored: list[ScoredSlices] = []
    begin = time.monotonic()
    for number, (scan, indices) in enumerate(chosen, 1):
        if should_stop():
            break
        scored.append(eye.look(scan, indices))
        left = (time.monotonic() - begin) * (len(chosen) / number - 1)
        emit(Progress("looking at slices", number / len(chosen), number, left))
    found = rank(scored, eye.axis, eye.names, job.count) if scored else []
    stopped = len(scored) < len(chosen)
    if not found and not stopped:
        raise UserError(
            f"All slices of {project.root} that are worth painting are complete; fine-tune and look at the "
            "predictions.",
            code="nothing-left",
        )
    return {
        "run": run.id if run else None,
        "suggestions": [asdict(each) for each in found],
        "stopped": stopped,
    }


def rank(scored: Sequence[ScoredSlices], axis: int, names: Mapping[int, str], count: int) -> list[Suggestion]:
    """The slices that are most worth painting of all that were seen, the best one first.

    names: of the classes by their numbers in `ScoredSlices.between`.
    """

    def joined(parts: Sequence[np.ndarray]) -> np.ndarray:
        return np.concatenate([np.asarray(part) for part in parts])

    scans = [each.scan for each in scored for _ in each.indices]
    index, between = joined([each.indices for each in scored]), joined([each.between for each in scored])
    free = ~joined([each.empty | each.complete for each in scored])
    reach = joined([np.full(len(each.indices), each.reach_mm) for each in scored])
    similarity = coverage.similarity(
        joined([each.vectors for each in scored]), scans, joined([each.position_mm for each in scored]), reach
    )
    painted = joined([each.painted for each in scored])
    asked = all(each.expected_error_mm2 is not None for each in scored)
    doubt = joined(
        [each.expected_error_mm2 for each in scored if each.expected_error_mm2 is not None]
        if asked
        else [~free]
    )
    if not asked:
        doubt = (free | painted).astype(np.float32)
    most = float(doubt[free].max(initial=0))
    result = []
    for choice in coverage.choose(similarity, doubt, painted, free, count):
        number = choice.number
        own = float(doubt[number]) if asked else 0.0
        pair = [names.get(int(each), "") for each in between[number]] if asked else []
        reason = why(own / most if most > 0 else 0.0, choice.novelty, pair, bool(painted.any()))
        result.append(
            Suggestion(
                scans[number], axis, int(index[number]), reason, round(own, 2), round(choice.novelty, 3)
            )
        )
    return result


def why(doubt: float, novelty: float, between: Sequence[str], anything: bool) -> str:
    """One plain sentence. doubt: share of the largest doubt; between: the two classes, "" for background."""
    new = "nothing like this is painted yet"
    if doubt > 0 and (doubt >= UNSURE or novelty < NEW):
        how = "least sure" if doubt == 1 else "not sure" if doubt >= UNSURE else "a little unsure"
        named = [name for name in between if name]
        where = {0: "", 1: " at the border of {0}", 2: " between {0} and {1}"}[len(named)].format(*named)
        return f"Here the model is {how}{where}" + (f", and {new}." if novelty >= NEW else ".")
    if not anything:
        return "Many slices look like this one: a good one to begin with."
    if novelty >= NEW:
        return f"{new[0].upper()}{new[1:]}."
    return "This differs from the painted slices more than the others do."


def newest_weights(project: Project) -> Run | None:
    """The newest fine-tuning that has learned anything, else the newest pre-training, else None."""
    for kind in ("finetune", "pretrain"):
        for run in reversed(project.runs(kind)):
            if run.checkpoint.exists() and run.card.get("step", 0) > 0 and not run.collapsed:
                return run
    return None


@dataclass(frozen=True)
class SliceScorer:
    """Who looks at slices: `look(scan, indices)`."""

    axis: int
    pixels: int
    """How much is to be looked at."""
    names: Mapping[int, str]
    look: Callable[[str, np.ndarray], ScoredSlices]


def _slice_scorer(project: Project, run: Run | None, scans: Sequence[str], device_name: str) -> SliceScorer:
    """A fine-tuned network doubts and compares, a pre-trained one compares; without one grey values do."""
    from medssl.nn import devices
    from medssl.tasks import planner

    device = devices.choose(device_name)
    pixels = PIXELS_CPU if device.type == "cpu" else PIXELS_GPU
    spacing = np.median([project.scans[scan].geometry.spacing_mm for scan in scans], axis=0)
    if run is None:
        axis = planner.slice_axis(project, spacing, [])
        return SliceScorer(
            axis, PIXELS_GPU, {}, lambda scan, indices: _score_slices(project, scan, axis, indices)
        )
    from medssl.tasks.active_learning.uncertainty import uncertainty, vector
    from medssl.tasks.start import load_for

    network, plan, card = load_for(project, run, device)
    # A fine-tuned network knows one side; what a pre-trained one sees is compared whatever side people paint.
    axis = plan.slice_axis
    if run.kind != "finetune":
        axis = planner.slice_axis(project, spacing, [])
    plan = replace(plan, slice_axis=axis)

    def look(scan: str, indices: np.ndarray) -> ScoredSlices:
        scored = _score_slices(project, scan, axis, indices)
        work = np.transpose(project.image(scan), plan.work_axes)
        spacing = [project.scans[scan].geometry.spacing_mm[each] for each in plan.work_axes]
        vectors = [vector(network, plan, work, spacing, int(index), device) for index in indices]
        scored = replace(scored, vectors=np.array(vectors))
        if run.kind != "finetune":
            return scored
        found = uncertainty(network, plan, work, spacing, [int(index) for index in indices], device)
        areas = np.array([each.area_mm2 for each in found], np.float32)
        return replace(scored, expected_error_mm2=areas, between=np.array([each.between for each in found]))

    names = {number: each["name"] for number, each in enumerate(card.get("classes", []), 1)}
    return SliceScorer(axis, pixels, names, look)


def _score_slices(project: Project, scan: str, axis: int, indices: np.ndarray) -> ScoredSlices:
    """What grey values and annotation say about slices of a scan."""
    step = project.scans[scan].geometry.spacing_mm[axis]
    image, annotation = project.image(scan), project.annotation(scan)
    vectors, contrast = slices.grey_vectors(slices.stack(image, axis, indices))
    painted = slices.painted_slices(annotation, axis) if annotation else np.zeros(image.shape[axis], bool)
    return ScoredSlices(
        scan=scan,
        indices=indices,
        position_mm=indices * step,
        reach_mm=max(REACH_SLICES * step, REACH * image.shape[axis] * step),
        vectors=vectors,
        expected_error_mm2=None,
        between=np.zeros((len(indices), 2), int),
        empty=slices.is_empty(contrast),
        painted=painted[indices],
        complete=np.isin(indices, slices.complete_slices(annotation, axis)),
    )
