"""Localisation error of the best match of a click: python benchmarks/landmarks.py

    run    pre-train missing weights, compute features, search, and append a line for each kind of weights
    draw   write docs/benchmarks/landmarks.md from the lines

The data are hippocampus scans; every fifth is a test scan, held out of training. The query is the voxel of a
class nearest to the centre of the class; the target in another scan is the corresponding voxel there. --dev
uses every tenth of the other scans instead, on which the search was developed.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from medssl.benchmarking.dataset import read_dataset
from medssl.benchmarking.protocol import Material, gather
from medssl.benchmarking.report import markdown_table
from medssl.benchmarking.results_log import append_records, read_records
from medssl.benchmarking.surroundings import surroundings
from medssl.cli.terminal import console, stop_on_interrupt, worker
from medssl.core import jobs
from medssl.core.features.landmarks import HALF_MM, LandmarkMatch, forward_backward_error_mm
from medssl.core.features.retrieval import RADII_MM, Query, best_match, neighbourhood_descriptor
from medssl.core.features.similarity import open_features, similarity
from medssl.core.files import write_whole
from medssl.core.jobs import FeaturesJob, PretrainJob
from medssl.core.labels.evaluate import reference_labels
from medssl.core.project.project import Project
from medssl.nn.models import checkpoint
from medssl.nn.models.unet import build
from medssl.tasks.plan import planner

LINES = Path(__file__).parents[1] / "docs" / "benchmarks" / "landmarks.jsonl"
PAGE = LINES.with_suffix(".md")
POSITION, RANDOM = "same relative position", "random"
METHODS = (POSITION, RANDOM, "pgl", "mae+pgl", "alice")
NAMES = {
    POSITION: POSITION,
    RANDOM: "random weights",
    "pgl": "PGL",
    "mae+pgl": "MAE+PGL",
    "alice": "Alice's matcher",
}
SINGLE, NEIGHBOURHOOD = "one cell", "with what is around it"
"""Values in the stored lines; the page uses MATCHING_NAMES."""
MATCHING_NAMES = {"": "", SINGLE: "single cell", NEIGHBOURHOOD: "neighbourhood descriptor"}
NEAR_MM = 5.0
SOURCES = 5
"""Number of clicked scans; each click is searched in all other scans of the protocol."""

Voxel = tuple[int, int, int]


@dataclass(frozen=True)
class Line:
    """Result of one kind of weights and one kind of matching; confidences are in the order of errors_mm."""

    weights: str
    matching: str
    scans: str
    """"test" or "dev"."""
    minutes: float
    steps: int
    seed: int
    errors_mm: dict[str, list[float]]
    confidences: dict[str, list[float]]
    machine: dict[str, Any]


@dataclass(frozen=True)
class Clicks:
    """The scans of a protocol with the centres of their classes; the first scans are clicked."""

    project: Project
    centres: dict[str, dict[str, Voxel]]
    """{scan: {class: voxel}}."""

    @property
    def pairs(self) -> list[tuple[str, str, str]]:
        """(class, clicked scan, searched scan)."""
        scans = list(self.centres)
        sources = scans[:: max(1, len(scans) // SOURCES)][:SOURCES]
        names = next(iter(self.centres.values()))
        return [(name, one, other) for name in names for one in sources for other in scans if one != other]

    def error_mm(self, name: str, scan: str, voxel: Voxel) -> float:
        """Distance of a voxel from the centre of a class in mm."""
        offset = np.subtract(voxel, self.centres[scan][name]) * self.project.scans[scan].geometry.spacing_mm
        return round(float(np.linalg.norm(offset)), 2)


def clicks_of(material: Material, dev: bool) -> Clicks:
    """The centres of all classes in the test scans, or in every tenth of the others."""
    references = dict(list(material.rest.items())[::10]) if dev else material.references
    centres = {}
    for scan_id, path in references.items():
        scan = material.project.scans[scan_id]
        labels = reference_labels(scan, path)
        centres[scan_id] = {
            each.name: central(labels == each.id, scan.geometry.spacing_mm)
            for each in material.dataset.classes
        }
    return Clicks(material.project, centres)


def central(inside: np.ndarray, spacing_mm: tuple[float, ...]) -> Voxel:
    """The voxel of a structure that is nearest to its centre of mass."""
    voxels = np.argwhere(inside)
    squared_mm = ((voxels - voxels.mean(0)) * spacing_mm) ** 2
    z, y, x = voxels[int(squared_mm.sum(1).argmin())].tolist()
    return z, y, x


# --- matching ---------------------------------------------------------------------------------------


def by_position(clicks: Clicks) -> dict[str, list[float]]:
    """Errors of the trivial baseline: the same relative position in the other scan."""
    errors: dict[str, list[float]] = {}
    shapes = {scan: np.array(each.geometry.shape_zyx) for scan, each in clicks.project.scans.items()}
    for name, here, there in clicks.pairs:
        relative = (np.array(clicks.centres[here][name]) + 0.5) / shapes[here]
        z, y, x = np.minimum((relative * shapes[there]).astype(int), shapes[there] - 1).tolist()
        errors.setdefault(name, []).append(clicks.error_mm(name, there, (z, y, x)))
    return errors


def by_features(
    clicks: Clicks, run: str, matching: str
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Errors and confidences of the best match under a run's features."""
    caches = {scan: open_features(clicks.project, scan, run) for scan in clicks.centres}
    errors: dict[str, list[float]] = {}
    confidences: dict[str, list[float]] = {}
    for name, here, there in clicks.pairs:
        start = clicks.centres[here][name]
        query = Query(neighbourhood_descriptor(caches[here], start))
        if matching == SINGLE:
            cosines = similarity(caches[there], query.centre)
            voxel = caches[there].voxel_of(np.unravel_index(int(cosines.argmax()), cosines.shape))
        else:
            match = best_match(caches[there], query)
            voxel = match.voxel_zyx
            back = forward_backward_error_mm(caches[there], voxel, caches[here], start)
            confidence = LandmarkMatch(name, there, voxel, match.score, back).confidence
            confidences.setdefault(name, []).append(round(confidence, 3))
        errors.setdefault(name, []).append(clicks.error_mm(name, there, voxel))
    return errors, confidences


def random_run(project: Project, seed: int) -> str:
    """Create a run with the random weights of a seed, from which every pre-training here starts."""
    scans = [scan.id for scan in project.scans.values() if not scan.held_out]
    from medssl.nn import devices

    plan, _ = planner.choose(project, scans, devices.choose("cpu"), {})
    run = project.new_run("pretrain", {"job": "pretrain", "method": RANDOM, "seed": seed}, RANDOM)
    network = build(plan, plan.patch_vox[0] if plan.dims == 2 else 1, seed)
    card = {"kind": "pretrain", "method": RANDOM, "plan": jobs.to_json(plan), "step": 0}
    checkpoint.save(run.checkpoint, checkpoint.pack("modules.network", network.state_dict()), card)
    return run.id


# --- the commands -----------------------------------------------------------------------------------


def run(options: argparse.Namespace) -> None:
    """Measure what has no result yet."""
    screen = console()
    root = options.work / "project"
    project = Project.create(root, or_open=True)
    material = gather(project, read_dataset(options.data), lambda fraction: None)
    clicks = clicks_of(material, options.dev)
    scans = "dev" if options.dev else "test"
    finished = {(line.weights, line.matching, line.scans, line.minutes) for line in lines_of(options.out)}
    with stop_on_interrupt(screen) as should_stop:
        work = worker(screen, should_stop)
        for method in options.methods:
            for matching in ("",) if method == POSITION else (SINGLE, NEIGHBOURHOOD):
                minutes = 0.0 if method in (POSITION, RANDOM) else options.minutes
                if (method, matching, scans, minutes) in finished:
                    continue
                steps, confidences = 0, {}
                if method == POSITION:
                    errors = by_position(clicks)
                else:
                    chosen = weights_for(project, method, options, work)
                    steps = int(project.run(chosen).card.get("step", 0))
                    missing = tuple(scan for scan in clicks.centres if not current(project, scan, chosen))
                    if missing:
                        work(FeaturesJob(project=str(root), device="cpu", weights=chosen, scans=missing))
                    errors, confidences = by_features(clicks, chosen, matching)
                line = Line(method, matching, scans, minutes, steps, options.seed, errors, confidences,
                            surroundings("cpu"))  # fmt: skip
                append_records(options.out, [asdict(line)])
                screen.print(f"{method} {matching} {row_of(line)}")


def current(project: Project, scan: str, run_id: str) -> bool:
    """Whether a scan has valid features of a run."""
    from medssl.core.errors import UserError

    try:
        open_features(project, scan, run_id)
    except UserError:
        return False
    return True


def weights_for(project: Project, method: str, options: argparse.Namespace, work: Any) -> str:
    """The run of a method with these minutes and this seed; trained now if there is none."""
    key = (method, options.seed, None if method == RANDOM else options.minutes)
    for each in project.runs("pretrain"):
        job = each.job
        if (job.get("method"), job.get("seed"), job.get("minutes")) == key and each.checkpoint.exists():
            return each.id
    if method == RANDOM:
        return random_run(project, options.seed)
    job = PretrainJob(
        project=str(project.root), seed=options.seed, device="cpu", minutes=options.minutes, method=method
    )
    return str(work(job)["run"])


def lines_of(path: Path) -> list[Line]:
    """All lines, oldest first."""
    return [Line(**record) for record in read_records(path)]


def row_of(line: Line) -> list[str]:
    """Median error, fraction within 5 mm, and that fraction for each class."""
    errors = np.concatenate([np.array(each) for each in line.errors_mm.values()])
    shares = [np.mean(np.array(each) <= NEAR_MM) for each in line.errors_mm.values()]
    return [
        f"{np.median(errors):.1f}",
        f"{np.mean(errors <= NEAR_MM):.0%}",
        *(f"{each:.0%}" for each in shares),
    ]


def sorted_by_confidence(line: Line) -> tuple[str, str]:
    """Fraction within 5 mm of the more and of the less confident half."""
    errors = np.concatenate([np.array(each) for each in line.errors_mm.values()])
    order = np.argsort(np.concatenate([np.array(each) for each in line.confidences.values()]))
    less, more = np.array_split(errors[order] <= NEAR_MM, 2)
    return f"{more.mean():.0%}", f"{less.mean():.0%}"


def draw(options: argparse.Namespace) -> None:
    """Write the page."""
    lines = lines_of(options.out)
    parts = [HEAD.format(sources=SOURCES, arms=" and ".join(f"{arm:g}" for arm in RADII_MM), half=HALF_MM)]
    for scans, heading in (("test", "Test scans"), ("dev", "Scans that the search was tuned on")):
        chosen = {(line.weights, line.matching): line for line in lines if line.scans == scans}
        if not chosen:
            continue
        names = list(next(iter(chosen.values())).errors_mm)
        head = [
            "weights",
            "compared",
            "steps",
            "median mm",
            "within 5 mm",
            *names,
            "more confident half",
            "other half",
        ]
        rows = []
        for method in METHODS:
            for matching in ("", SINGLE, NEIGHBOURHOOD):
                line = chosen.get((method, matching))
                if line is None:
                    continue
                halves = sorted_by_confidence(line) if line.confidences else ("", "")
                rows.append([
                    NAMES[method],
                    MATCHING_NAMES[matching],
                    str(line.steps or ""),
                    *row_of(line),
                    *halves,
                ])  # fmt: skip
        parts.append(f"## {heading}\n\n{markdown_table(head, rows, text=(0, 1))}\n")
    machine = lines[-1].machine
    minutes = max(line.minutes for line in lines)
    parts.append(
        f"Pre-trained {minutes:g} minutes each with the quick recipes, seed {lines[-1].seed}, on one core of "
        f"{machine['cpu']} beside other work, torch {machine['torch']}, medssl {machine['commit']}.\n"
    )
    write_whole(PAGE, lambda file: file.write("\n".join(parts).encode()))


HEAD = """# Landmarks

`python benchmarks/landmarks.py run` and `draw`. A click on the centre of each class of {sources} hippocampus
scans (MSD Task04), searched in all other scans of the set; the error is the distance of the best match from
the centre of that class there. The test scans were held out of all pre-training.

"Single cell" compares the feature of the clicked cell. "Neighbourhood descriptor" adds those of the cells
{arms} mm away along each axis, as the viewer does. "More confident half": the fraction within 5 mm among the
half of the matches with the higher confidence (score, halved for each {half:g} mm by which the way back
misses the click).

These scans are similar crops around the hippocampus, so the trivial baseline, the same relative position,
does well. Conclusions for scans of different parts of the body are limited. The neighbourhood descriptor
benefits too: beyond the border of a scan, its last cell is repeated.
"""


def main() -> None:
    """Run or draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("command", choices=("run", "draw"))
    parser.add_argument("--data", type=Path, default=Path("../shared/data/Task04_Hippocampus"))
    parser.add_argument("--work", type=Path, default=Path("landmarks-work"), help="folder of the project")
    parser.add_argument("--out", type=Path, default=LINES, help="file of JSON lines")
    parser.add_argument("--minutes", type=float, default=3.0, help="minutes of each pre-training")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--dev", action="store_true", help="evaluate on every tenth of the training scans")
    options = parser.parse_args()
    {"run": run, "draw": draw}[options.command](options)


if __name__ == "__main__":
    main()
