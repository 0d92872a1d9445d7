"""Errors become sentences here, and nowhere else in the plugin."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from medssl.core.errors import UserError
from psygnal import EmitLoopError

if TYPE_CHECKING:
    from napari_medssl.model.session import Session


def guarded(session: Session, action: Callable[[], Any]) -> Any:
    """Run what a button does; an error becomes one sentence, never a traceback.

    Returns None after an error.
    """
    try:
        return action()
    except Exception as error:
        tell(session, error)
    return None


def tell(session: Session, error: BaseException) -> None:
    """An error as one sentence; also one that was met in a thread."""
    if isinstance(error, EmitLoopError) and error.__cause__ is not None:
        error = error.__cause__  # psygnal wraps what a listener raises
    if isinstance(error, UserError):
        session.tell("error", str(error))
        return
    logging.getLogger("napari_medssl").error("defect", exc_info=error)
    session.tell(
        "error",
        f"Something in napari-medssl went wrong ({type(error).__name__}: {error}); your strokes are "
        "kept, please report it with the log.",
    )
