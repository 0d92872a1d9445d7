"""Keeps libraries from printing in the processes of the command line and of the viewer."""

from __future__ import annotations

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
