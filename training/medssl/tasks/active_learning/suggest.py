"""Active learning: rank the slices to annotate next, with a reason for each (the viewer's "Next slice").

Combines query by committee (Seung et al., COLT 1992) with a fine-tuned network (uncertainty.py), and the
coverage of all slices by the annotated ones (coverage.py). Before any fine-tuning only coverage counts: in
the features of the newest pre-training or, without one, in the intensities of downsampled slices of all
channels.

Held-out scans, complete slices and slices that contain nothing but air are never suggested.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from medssl.core.active_learning import coverage, slices
from medssl.core.active_learning.slices import ScoredSlices, Suggestion
from medssl.core.errors import UserError
from medssl.core.events import Emit, Notice, Progress, Started
from medssl.core.jobs import SuggestJob
from medssl.core.project.channels import channel_names, having
from medssl.core.project.project import Project, Run
from medssl.core.project.runs import refuse_collapsed
from medssl.tasks.plan.channels import channels_of, with_channels

PIXELS_CPU, PIXELS_GPU = 1_000_000, 200_000_000
"""Number of pixels to score: half a minute on one core, seconds on a GPU."""
REACH, REACH_SLICES = 0.05, 1.5
"""Distance over which slices are similar: fraction of the scan's length, and minimum in slices."""
NOVEL = 0.5
"""Minimum novelty of a slice without any similar annotated slice."""
UNCERTAIN = 0.5
"""Minimum uncertainty, relative to the maximum, that is a reason to annotate a slice."""


def suggest(project: Project, job: SuggestJob, emit: Emit, should_stop: Callable[[], bool]) -> dict[str, Any]:
    """Rank the slices of a project.

    Args:
        project: The project.
        job: How many slices to suggest, and with which weights.
        emit: Receives Progress events.
        should_stop: Called after each scan; what has been scored is ranked.

    Returns:
        {"run": id or None, "suggestions": [...], "stopped": bool}, the best suggestion first.

    Raises:
        UserError: "no-scans", "nothing-left", "bad-job", and those of loading a checkpoint.
    """
    if job.count < 1:
        raise UserError(f"Cannot suggest {job.count} slices; set count to 1 or more.", code="bad-job")
    scans = [scan.id for scan in project.scans.values() if not scan.held_out]
    if not scans:
        raise UserError(
            f"{project.root} has no scan to suggest slices of; add scans, or hold out fewer of them.",
            code="no-scans",
        )
    passed_over: list[str] = []
    run = project.run(job.weights) if job.weights else newest_weights(project, passed_over.append)
    if run is not None:
        refuse_collapsed(run)
    emit(Started(run.id if run else ""))
    for text in passed_over:
        emit(Notice(text))
    scorer = _slice_scorer(project, run, scans, job.device)
    scans = with_channels(project, scans, scorer.channel_names, emit)
    chosen = list(slices.sample(project, scans, scorer.axis, scorer.pixels, np.random.default_rng(job.seed)))
    scored: list[ScoredSlices] = []
    begin = time.monotonic()
    for number, (scan, indices) in enumerate(chosen, 1):
        if should_stop():
            break
        scored.append(scorer.score(scan, indices))
        remaining_s = (time.monotonic() - begin) * (len(chosen) / number - 1)
        emit(Progress("scoring slices", number / len(chosen), number, remaining_s))
    suggestions = rank(scored, scorer.axis, scorer.names, job.count) if scored else []
    stopped = len(scored) < len(chosen)
    if not suggestions and not stopped:
        raise UserError(
            f"All informative slices of {project.root} are complete; fine-tune and check the predictions.",
            code="nothing-left",
        )
    return {
        "run": run.id if run else None,
        "suggestions": [asdict(suggestion) for suggestion in suggestions],
        "stopped": stopped,
    }


def rank(scored: Sequence[ScoredSlices], axis: int, names: Mapping[int, str], count: int) -> list[Suggestion]:
    """Choose the slices whose annotation is expected to help most.

    Args:
        scored: Scores of the candidate slices, one item per scan.
        axis: Canonical axis of the slices.
        names: Names of the classes by their numbers in `ScoredSlices.between`.
        count: Maximum number of suggestions.

    Returns:
        Suggestions, the best one first.
    """

    def joined(arrays: Sequence[np.ndarray]) -> np.ndarray:
        return np.concatenate([np.asarray(array) for array in arrays])

    scans = [scan.scan for scan in scored for _ in scan.indices]
    index, between = joined([scan.indices for scan in scored]), joined([scan.between for scan in scored])
    available = ~joined([scan.empty | scan.complete for scan in scored])
    reach = joined([np.full(len(scan.indices), scan.reach_mm) for scan in scored])
    similarity = coverage.similarity(
        joined([scan.vectors for scan in scored]), scans, joined([scan.position_mm for scan in scored]), reach
    )
    annotated = joined([scan.painted for scan in scored])
    expected_errors = [scan.expected_error_mm2 for scan in scored if scan.expected_error_mm2 is not None]
    has_errors = len(expected_errors) == len(scored)
    uncertainty = joined(expected_errors) if has_errors else (available | annotated).astype(np.float32)
    largest = float(uncertainty[available].max(initial=0))
    suggestions = []
    for choice in coverage.choose(similarity, uncertainty, annotated, available, count):
        number = choice.number
        error = float(uncertainty[number]) if has_errors else 0.0
        pair = [names.get(int(label), "") for label in between[number]] if has_errors else []
        reason = why(error / largest if largest > 0 else 0.0, choice.novelty, pair, bool(annotated.any()))
        suggestions.append(
            Suggestion(
                scans[number], axis, int(index[number]), reason, round(error, 2), round(choice.novelty, 3)
            )
        )
    return suggestions


def why(uncertainty: float, novelty: float, between: Sequence[str], any_annotated: bool) -> str:
    """The reason for a suggestion in one sentence.

    Args:
        uncertainty: Expected error relative to the largest one, 0 .. 1.
        novelty: Dissimilarity from all annotated slices, 0 .. 1.
        between: Names of the two classes that are confused most, "" for the background.
        any_annotated: Whether any slice is annotated.
    """
    new = "no similar slice is annotated yet"
    if uncertainty > 0 and (uncertainty >= UNCERTAIN or novelty < NOVEL):
        degree = "most" if uncertainty == 1 else "" if uncertainty >= UNCERTAIN else "slightly"
        named = [name for name in between if name]
        where = {0: "", 1: " at the border of {0}", 2: " between {0} and {1}"}[len(named)].format(*named)
        adjective = " ".join(word for word in (degree, "uncertain") if word)
        return f"On this slice the model is {adjective}{where}" + (
            f", and {new}." if novelty >= NOVEL else "."
        )
    if not any_annotated:
        return "Many slices are similar to this one: a good slice to start with."
    if novelty >= NOVEL:
        return f"{new[0].upper()}{new[1:]}."
    return "This slice differs most from the annotated ones."


def newest_weights(project: Project, notify: Callable[[str], None] = lambda text: None) -> Run | None:
    """The newest fine-tuning, else the newest pre-training, with at least one step and without collapse.

    Args:
        project: The project with the runs.
        notify: Receives why a run with a damaged card is passed over.

    Returns:
        The run; None if there is neither.
    """
    for kind in ("finetune", "pretrain"):
        for run in reversed(project.runs(kind)):
            try:
                if run.checkpoint.exists() and run.card.get("step", 0) > 0 and not run.collapsed:
                    return run
            except UserError as error:
                notify(str(error))
    return None


@dataclass(frozen=True)
class SliceScorer:
    """Scores slices of a project."""

    axis: int
    """Canonical axis of the slices."""
    pixels: int
    """Number of pixels to score."""
    names: Mapping[int, str]
    """Names of the classes by number."""
    score: Callable[[str, np.ndarray], ScoredSlices]
    """Scores slices of a scan: `score(scan, indices)`, indices (n,) int."""
    channel_names: tuple[str, ...] = ()
    """Channels that a scan needs to be scored."""


def _slice_scorer(project: Project, run: Run | None, scans: Sequence[str], device_name: str) -> SliceScorer:
    """A scorer by uncertainty and features (fine-tuned), features (pre-trained) or intensities (no run)."""
    from medssl.nn import devices
    from medssl.tasks.plan import planner

    device = devices.choose(device_name)
    pixels = PIXELS_CPU if device.type == "cpu" else PIXELS_GPU
    spacing = np.median([project.scans[scan].geometry.spacing_mm for scan in scans], axis=0)
    if run is None:
        axis, channels = planner.slice_axis(project, spacing, []), _common_channels(project, scans)

        def score_intensities(scan: str, indices: np.ndarray) -> ScoredSlices:
            return _score_slices(project, scan, channels, axis, indices)

        return SliceScorer(axis, PIXELS_GPU, {}, score_intensities, channels)
    from medssl.tasks.active_learning.uncertainty import uncertainty, vector
    from medssl.tasks.inference.slabs import work_of
    from medssl.tasks.start import for_scan, load_for

    network, plan, card = load_for(project, run, device)
    # A fine-tuned network has its slice axis; features of a pre-trained one serve any annotated axis.
    axis = plan.slice_axis
    if run.kind != "finetune":
        axis = planner.slice_axis(project, spacing, [])
    plan = replace(plan, slice_axis=axis)

    def score(scan: str, indices: np.ndarray) -> ScoredSlices:
        fitted, its_plan = for_scan(network, plan, project.scans[scan])
        scored = _score_slices(project, scan, its_plan.channel_names, axis, indices)
        work = work_of(project, scan, its_plan)
        spacing = [project.scans[scan].geometry.spacing_mm[work_axis] for work_axis in plan.work_axes]
        vectors = [vector(fitted, its_plan, work, spacing, int(index), device) for index in indices]
        scored = replace(scored, vectors=np.array(vectors))
        if run.kind != "finetune":
            return scored
        results = uncertainty(fitted, its_plan, work, spacing, [int(index) for index in indices], device)
        areas = np.array([result.area_mm2 for result in results], np.float32)
        between = np.array([result.between for result in results])
        return replace(scored, expected_error_mm2=areas, between=between)

    names = {number: label["name"] for number, label in enumerate(card.get("classes", []), 1)}
    return SliceScorer(axis, pixels, names, score, channels_of(run))


def _common_channels(project: Project, scans: Sequence[str]) -> tuple[str, ...]:
    """All channels of some scans; none, which stands for each scan's first, if no scan has all."""
    members = [project.scans[scan] for scan in scans]
    names = channel_names(members)
    return names if having(members, names) else ()


def _score_slices(
    project: Project, scan: str, channels: Sequence[str], axis: int, indices: np.ndarray
) -> ScoredSlices:
    """Scores of slices of a scan from the intensities of its channels and from its annotation."""
    step = project.scans[scan].geometry.spacing_mm[axis]
    images, annotation = project.images(scan, channels), project.annotation(scan)
    by_channel = [slices.grey_vectors(slices.stack(image, axis, indices)) for image in images]
    length = images[0].shape[axis]
    painted = slices.painted_slices(annotation, axis) if annotation else np.zeros(length, bool)
    return ScoredSlices(
        scan=scan,
        indices=indices,
        position_mm=indices * step,
        reach_mm=max(REACH_SLICES * step, REACH * length * step),
        vectors=np.concatenate([vectors for vectors, _ in by_channel], axis=1),
        expected_error_mm2=None,
        between=np.zeros((len(indices), 2), int),
        empty=np.all([slices.is_empty(contrast) for _, contrast in by_channel], axis=0),
        painted=painted[indices],
        complete=np.isin(indices, slices.complete_slices(annotation, axis)),
    )
