"""Make a finished training on shapes the weights that ship: python benchmarks/ship_weights.py PROJECT RUN

Writes resources/weights/shapes.safetensors (the moving average of the weights and the heads, no optimizer)
and shapes.json (its card: command, seed, steps, machine, commit, SHA-256).
"""

from __future__ import annotations

import argparse
import json
import shlex
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from medssl.benchmarking.surroundings import surroundings
from medssl.core.files import sha256_of, write_json, write_whole
from medssl.core.project.project import Project
from medssl.core.recipes import resources
from medssl.core.shipped import SHAPES, card
from medssl.nn.models import checkpoint


def ship(
    project: Path, run_id: str, folder: Path, note: str = "", commit: str | None = None
) -> dict[str, Any]:
    """Write weights and card of that run into `folder`; returns the card."""
    tensors, made = checkpoint.load(Project.open(project).run(run_id).checkpoint, under="modules.")
    # The moving average is what others start from; the heads serve a method that goes on with the same task.
    tensors = {name: each for name, each in tensors.items() if not name.startswith("modules.network.")}
    job = {**made["job"], "project": f"medssl-{SHAPES}"}
    length = f"--steps {job['steps']}" if job["steps"] else f"--minutes {job['minutes']:g}"
    asked = {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in job["settings"].items()
    }
    settings = "".join(f" --set {shlex.quote(f'{name}={value}')}" for name, value in asked.items())
    went_on = f" --weights {SHAPES}" if job["weights"] == SHAPES else ""
    options = length + went_on + settings
    made_on = surroundings(job["device"])
    known = {
        "kind": made["kind"],
        "method": made["method"],
        "plan": made["plan"],
        "job": job,
        "scans": [],
        "step": made["step"],
        "elapsed_s": round(made["elapsed_s"]),
        "command": f"medssl pretrain --method {made['method']} --seed {job['seed']} {options}",
        **({"went_on_from": before()} if went_on else {}),
        "machine": {**made_on, "commit": commit or made_on["commit"]},
        "date": datetime.now(UTC).date().isoformat(),
        "note": note,
    }
    path = folder / f"{SHAPES}.safetensors"
    body = checkpoint.as_bytes(tensors, known)
    write_whole(path, lambda file: file.write(body))
    write_json(path.with_suffix(".json"), {**known, "sha256": sha256_of(path)})
    return known


def before() -> dict[str, Any]:
    """Of the weights that ship so far: what made them, so that the whole way can be gone again."""
    known = card()
    names = ("command", "step", "elapsed_s", "date", "sha256", "went_on_from")
    commit = known.get("machine", {}).get("commit")
    return {**{name: known[name] for name in names if name in known}, "commit": commit}


def main() -> None:
    """Read the command line and write the files."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("project", type=Path)
    parser.add_argument("run")
    parser.add_argument("--note", default="", help="what else a reader should know of these weights")
    parser.add_argument(
        "--commit", help="the commit that trained them, where it is not the one of this checkout"
    )
    given = parser.parse_args()
    ship(given.project, given.run, resources() / "weights", given.note, given.commit)


if __name__ == "__main__":
    main()
