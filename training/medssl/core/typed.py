"""Values from files and other processes as the types that the program works with, or one sentence."""

from __future__ import annotations

import typing
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar

import msgspec

from medssl.core.errors import UserError

T = TypeVar("T")
RESTORE = "correct it, or restore the file from a backup"


def convert(kind: type[T], value: Any, where: str, code: str = "bad-job", advice: str = RESTORE) -> T:
    """A value as JSON has it (dict, list, str, ...) as a `kind`; numbers and texts are not turned into each
    other.

    Args:
        kind: a dataclass, TypedDict, msgspec.Struct or union of tagged Structs.
        where: what the sentence calls the file or thing.
        advice: what to do, where the type does not say it.

    Raises:
        UserError: `code`; names `where`, the first value that does not fit, and what is expected there.
    """
    try:
        return msgspec.convert(value, kind)
    except (msgspec.ValidationError, UnicodeError, OverflowError, RecursionError) as error:
        reason, _, path = str(error).partition(" - at ")
        place = path.strip("`").removeprefix("$").removeprefix(".")
        reason = reason[:1].lower() + reason[1:].replace("`", "'")
        at = f" at {place!r}" if place else ""
        raise UserError(
            f"{where} does not fit{at}: {reason}; {_instead(kind, place) or advice}.", code=code
        ) from error


def _instead(kind: type, place: str) -> str:
    """What to write there; empty if the type allows too much to list."""
    hint = typing.get_type_hints(kind).get(place) if isinstance(kind, type) else None
    alternatives = [each for each in typing.get_args(hint) if each is not NoneType]
    if typing.get_origin(hint) in (typing.Union, UnionType) and len(alternatives) == 1:
        hint = alternatives[0]  # None stands for what is left out
    if typing.get_origin(hint) is Literal:
        return f"write one of {', '.join(map(repr, typing.get_args(hint)))}"
    return "write true or false" if hint is bool else ""
