"""Turns exceptions into messages for the user."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, TypeVar

from medssl.core.errors import UserError
from psygnal import EmitLoopError

if TYPE_CHECKING:
    from napari_medssl.model.session import Session

T = TypeVar("T")


def catch_errors(session: Session, action: Callable[[], T], about: Hashable = None) -> T | None:
    """Run an action of the window; an exception becomes a message, never a traceback.

    Args:
        session: Shows the message.
        action: What is done.
        about: Subject of the message (model/messages.py), which ends the one before; None for an action that
            a press or a key begins, which ends it, too.

    Returns:
        What the action returns; None after an error.
    """
    if about is not None:
        session.messages.end(about)
    try:
        return action()
    except Exception as error:
        report_error(session, error, about)
    return None


def report_error(session: Session, error: BaseException, about: Hashable = None) -> None:
    """Show an exception as a message.

    Args:
        session: Shows the message.
        error: A UserError is shown as it is, and its code is a subject of the message; anything else is
            logged as a defect.
        about: Another subject; None for no other.
    """
    subjects = () if about is None else (about,)
    if isinstance(error, EmitLoopError) and error.__cause__ is not None:
        error = error.__cause__  # psygnal wraps what a listener raises
    if isinstance(error, UserError):
        session.notify("error", str(error), (error.code, *subjects))
        return
    logging.getLogger("napari_medssl").error("defect", exc_info=error)
    session.notify(
        "error",
        f"Internal error in napari-medssl ({type(error).__name__}: {error}); your strokes are kept. "
        "Please report it with the log.",
        subjects,
    )
