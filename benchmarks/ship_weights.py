"""Turn a finished training on shapes into the shipped weights: python benchmarks/ship_weights.py PROJECT RUN

Writes resources/weights/shapes.safetensors (moving average of the weights, and the heads; no optimizer state)
and shapes.json (the card: command, seed, steps, machine, commit, SHA-256).
"""

from __future__ import annotations

import argparse
import json
import shlex
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from medssl.benchmarking.surroundings import surroundings
from medssl.core.files import sha256_of, write_whole
from medssl.core.json_files import write_json
from medssl.core.project.project import Project
from medssl.core.recipes import resources
from medssl.core.shipped import SHAPES, card
from medssl.nn.models import checkpoint


def ship(
    project: Path, run_id: str, folder: Path, note: str = "", commit: str | None = None
) -> dict[str, Any]:
    """Write the weights and the card of a run.

    Args:
        project: The project.
        run_id: Id of the run.
        folder: Output folder.
        note: A remark for the card.
        commit: Commit that trained the weights; by default that of this checkout.

    Returns:
        The card.
    """
    tensors, run_card = checkpoint.load(Project.open(project).run(run_id).checkpoint, under="modules.")
    # Others start from the moving average; the heads are for a method that continues the same task.
    tensors = {name: each for name, each in tensors.items() if not name.startswith("modules.network.")}
    job = {**run_card["job"], "project": f"medssl-{SHAPES}"}
    length = f"--steps {job['steps']}" if job["steps"] else f"--minutes {job['minutes']:g}"
    texts = {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in job["settings"].items()
    }
    settings = "".join(f" --set {shlex.quote(f'{name}={value}')}" for name, value in texts.items())
    continued = f" --weights {SHAPES}" if job["weights"] == SHAPES else ""
    options = length + continued + settings
    machine = surroundings(job["device"])
    shipped_card = {
        "kind": run_card["kind"],
        "method": run_card["method"],
        "plan": run_card["plan"],
        "job": job,
        "scans": [],
        "step": run_card["step"],
        "elapsed_s": round(run_card["elapsed_s"]),
        "command": f"medssl pretrain --method {run_card['method']} --seed {job['seed']} {options}",
        **({"went_on_from": provenance()} if continued else {}),
        "machine": {**machine, "commit": commit or machine["commit"]},
        "date": datetime.now(UTC).date().isoformat(),
        "note": note,
    }
    path = folder / f"{SHAPES}.safetensors"
    content = checkpoint.as_bytes(tensors, shipped_card)
    write_whole(path, lambda file: file.write(content))
    write_json(path.with_suffix(".json"), {**shipped_card, "sha256": sha256_of(path)})
    return shipped_card


def provenance() -> dict[str, Any]:
    """How the weights that ship now were made, so that all trainings can be reproduced."""
    current = card()
    names = ("command", "step", "elapsed_s", "date", "sha256", "went_on_from")
    commit = current.get("machine", {}).get("commit")
    return {**{name: current[name] for name in names if name in current}, "commit": commit}


def main() -> None:
    """Write the files."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("project", type=Path)
    parser.add_argument("run")
    parser.add_argument("--note", default="", help="a remark for the card")
    parser.add_argument(
        "--commit", help="commit that trained the weights, if it is not that of this checkout"
    )
    options = parser.parse_args()
    ship(options.project, options.run, resources() / "weights", options.note, options.commit)


if __name__ == "__main__":
    main()
