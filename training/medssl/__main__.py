"""`medssl` and `python -m medssl`: the command line, and the one place where errors become sentences."""

from __future__ import annotations

import errno
import os
import sys

from medssl.core import ranks
from medssl.core.errors import UserError
from medssl.core.files import from_system
from medssl.core.library_output import print_any_name, silence_libraries

INTERRUPTED = 130
"""Exit code after Ctrl-C, as of a command that has begun (cli/terminal.py)."""
WRITING = (errno.ENOSPC, errno.EDQUOT, errno.EIO)
"""Errors of a disk that standard output is on."""


def main() -> None:
    """Run the command line; what the user can put right ends in one sentence and exit code 1."""
    # Threads of OpenMP that wait for each other spin for some microseconds, then sleep. Where they sleep at
    # once a step takes a third more time on idle cores; where they spin for long, ten times as much beside
    # busy neighbours. Has to be said before torch is loaded.
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")
    if sys.argv[1:2] != ["run"]:  # whose output is the log of a training
        silence_libraries()
    print_any_name()
    try:
        from medssl.cli import app

        if ranks.world() > 1 and sys.argv[1:2] != ["run"]:
            raise UserError(
                "torchrun can only start `medssl run JOB`; write the training as a job file.", code="bad-job"
            )
        app()
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:  # before a command could handle it
        sys.exit(INTERRUPTED)
    except OSError as error:
        if not from_system(error) or (error.filename is None and error.errno not in WRITING):
            raise
        print(_sentence(error), file=sys.stderr)
        # What could not be written is not tried again when the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(1)


def _sentence(error: OSError) -> str:
    """What the system refused, and what to do."""
    reason = error.strerror or error
    if error.filename is None:
        return f"The output could not be written ({reason}); free some space, or write it elsewhere."
    return f"{error.filename} could not be used ({reason}); check the path, the drive and your permissions."


if __name__ == "__main__":
    main()
