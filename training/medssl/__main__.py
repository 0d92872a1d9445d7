"""`medssl` and `python -m medssl`: the command line, and the one place where errors become sentences."""

from __future__ import annotations

import os
import sys

from medssl.core import ranks
from medssl.core.errors import UserError
from medssl.core.library_output import silence_libraries


def main() -> None:
    """Run the command line; what the user can put right ends in one sentence and exit code 1."""
    # Threads of OpenMP that wait for each other spin for some microseconds, then sleep. Where they sleep at
    # once a step takes a third more time on idle cores; where they spin for long, ten times as much beside
    # busy neighbours. Has to be said before torch is loaded.
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")
    if sys.argv[1:2] != ["run"]:  # whose output is the log of a training
        silence_libraries()
    from medssl.cli import app

    try:
        if ranks.world() > 1 and sys.argv[1:2] != ["run"]:
            raise UserError(
                "torchrun can only start `medssl run JOB`; write the training as a job file.", code="bad-job"
            )
        app()
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
