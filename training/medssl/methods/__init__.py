"""One file per published method, named in `METHODS`. Importing this loads no torch: lists are cheap."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from medssl.errors import UserError

if TYPE_CHECKING:
    from torch import Generator, Tensor, nn

    from medssl.config import Plan
    from medssl.events import Emit
    from medssl.patches.pool import Pool
    from medssl.training.networks import Network

METHODS = {
    "pgl": "pgl.PGL",
    "mae": "mae.MAE",
    "mae+pgl": "mae_pgl.MAEPGL",
    "byol": "byol.BYOL",
    "simclr": "simclr.SimCLR",
    "moco": "moco.MoCo",
    "lrc": "lrc.LRC",
    "sal": "sal.SAL",
    "alice": "alice.Alice",
    "supervoxels": "supervoxels.SuperVoxels",
}
"""Name on the command line, in job files and recipes: module and class."""

WITHOUT_SCANS = {"shapes": "shapes.Shapes"}
"""Methods that learn from made-up volumes; their trainings need no project with scans."""


class Method(Protocol):
    """What the engine asks of a method; nothing else of it is known outside its file."""

    Settings: ClassVar[Any]
    """A frozen dataclass of the method's numbers; recipes and jobs fill it."""
    TRANSFERS: ClassVar[tuple[str, ...]]
    """Beginnings of the names of the network's tensors that it trains, and fine-tuning starts from."""
    DECODER_DESCRIBES: ClassVar[bool]
    """Whether places are compared by the decoder's maps (Network.describe); False where it says nothing."""
    plan: Plan
    modules: nn.ModuleDict
    """Everything to train or keep; "network" is what fine-tuning takes."""

    def __init__(self, network: Network, plan: Plan, settings: Any) -> None: ...

    def prepare(self, pool: Pool, emit: Emit) -> None:
        """Make ready what steps need; the time counts as training.

        Raises UserError where these scans do not allow the method, in one sentence with what to do instead.
        """

    def loss(self, pool: Pool, generator: Generator, fraction: float) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a new batch, and numbers worth a curve; `fraction` of the training is over.

        "spread" among them is the parts.spread of the vectors that the loss compares, where it compares
        some: by it a collapse is recognised (health.py).
        """

    def after_step(self, fraction: float) -> None:
        """What follows an optimizer step."""


def decoder_describes(name: str) -> bool:
    """Whether the features of that method's networks are the decoder's maps."""
    known = name in METHODS or name in WITHOUT_SCANS
    return known and getattr(find(name), "DECODER_DESCRIBES", False)


def find(name: str) -> type[Method]:
    """The class of a method.

    Raises UserError ("no-method") that lists those there are.
    """
    known = {**METHODS, **WITHOUT_SCANS}
    if name not in known:
        raise UserError(f"There is no method {name!r}; choose one of {', '.join(known)}.", code="no-method")
    module, kind = known[name].split(".")
    found: type[Method] = getattr(import_module(f"medssl.methods.{module}"), kind)
    return found
