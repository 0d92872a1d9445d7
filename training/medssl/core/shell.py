"""Commands as sentences suggest them: they can be pasted into a shell."""

from __future__ import annotations

import shlex


def command(*words: object) -> str:
    """A command of `medssl` with its arguments, quoted where they need to be.

    Args:
        words: Subcommand and arguments.

    Example:
        >>> command("finetune", Path("my scans"), "--resume", "last")
        "medssl finetune 'my scans' --resume last"
    """
    return shlex.join(["medssl", *map(str, words)])
