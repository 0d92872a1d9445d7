"""What is printed in the processes of the command line and of the viewer: nothing of libraries, any name."""

from __future__ import annotations

import codecs
import io
import logging
import sys
import warnings


def silence_libraries() -> None:
    """Keep libraries from printing: what matters to the user is said in sentences of our own.

    Call it before libraries are imported. python -W and PYTHONWARNINGS bring warnings back.
    """
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    logging.getLogger().addHandler(logging.NullHandler())  # Python prints what nobody handles
    logging.getLogger("nibabel.global").setLevel(logging.CRITICAL)  # it has a handler of its own


def print_any_name() -> None:
    """Let standard output take names of files that are no text, and letters that its encoding lacks.

    Files of other systems have such names, and outputs of Windows and of old locales lack most letters.
    """
    codecs.register_error("any-name", _as_it_is)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="any-name")


def _as_it_is(error: UnicodeError) -> tuple[str | bytes, int]:
    """Bytes of a name as they are, anything else as an escape."""
    try:
        return codecs.lookup_error("surrogateescape")(error)
    except UnicodeError:
        return codecs.lookup_error("backslashreplace")(error)
