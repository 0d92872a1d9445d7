"""Where the viewer was left: view-state.json, which only the viewer writes."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta

from medssl.core.errors import UserError
from medssl.core.json_files import read_json, write_json
from medssl.core.typed import convert

FILE = "view-state.json"
Axis = Annotated[int, Meta(ge=0, le=2)]
Index = Annotated[int, Meta(ge=0)]


@dataclass(frozen=True)
class ViewState:
    """The scan that was on the screen, and the slice of each scan that was shown last."""

    scan: str | None = None
    slices: dict[str, tuple[Axis, Index]] = field(default_factory=dict)
    """{scan id: (canonical axis, voxel index)}."""


def read_view_state(root: Path, former: dict[str, Any]) -> ViewState:
    """Read where the viewer was left.

    Args:
        root: The project folder.
        former: What project.json says, where it was kept formerly.

    Returns:
        The state; the default one if the file is damaged, which costs no more than a few clicks.
    """
    try:
        path = Path(root) / FILE
        return convert(ViewState, read_json(path) if path.exists() else former, FILE)
    except UserError:
        return ViewState()


def write_view_state(root: Path, state: ViewState) -> None:
    """Write where the viewer was left, atomically; raises the errors of `write_json`."""
    write_json(Path(root) / FILE, asdict(state))
