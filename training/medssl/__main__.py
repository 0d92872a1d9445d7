"""`medssl` and `python -m medssl`: the command line, and the one place where errors become sentences."""

from __future__ import annotations

import os
import sys

from medssl.errors import UserError


def main() -> None:
    """Run the command line; what the user can put right ends in one sentence and exit code 1."""
    # Waiting threads sleep: beside a busy neighbour two spinning threads are slower than one. Has to be said
    # before torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from medssl.commands import app

    try:
        app()
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
