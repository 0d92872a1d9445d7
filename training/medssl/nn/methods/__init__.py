"""Pre-training methods, one file each; core/methods.py names them. Importing this package loads no torch."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from medssl.core.errors import UserError
from medssl.core.methods import METHODS, WITHOUT_SCANS

if TYPE_CHECKING:
    from torch import Generator, Tensor, nn

    from medssl.core.events import Emit
    from medssl.core.jobs import Plan
    from medssl.nn.data.device_dataset import DeviceDataset
    from medssl.nn.models.unet import Network


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

    def prepare(self, dataset: DeviceDataset, emit: Emit) -> None:
        """Make ready what steps need; the time counts as training.

        Raises UserError where these scans do not allow the method, in one sentence with what to do instead.
        """

    def loss(
        self, dataset: DeviceDataset, generator: Generator, fraction: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a new batch, and scalars to log.

        Args:
            dataset: Scans.
            generator: CPU generator of all draws.
            fraction: Completed fraction of the training.

        Returns:
            Loss and scalars. Among them, if the loss compares vectors, is "feature_std": their
            `common.feature_std`, from which collapse_monitor.py detects a collapse.
        """

    def after_step(self, fraction: float) -> None:
        """What follows an optimizer step."""


def decoder_describes(name: str) -> bool:
    """Whether the features of that method's networks are the decoder's maps."""
    known = name in METHODS or name in WITHOUT_SCANS
    return known and getattr(find(name), "DECODER_DESCRIBES", False)


def find(name: str) -> type[Method]:
    """The class of a method.

    Raises UserError ("no-method") that lists those there are, or names a package whose method cannot be
    loaded.
    """
    known = {**METHODS, **WITHOUT_SCANS}
    if name not in known:
        raise UserError(f"There is no method {name!r}; choose one of {', '.join(known)}.", code="no-method")
    module, _, kind = known[name].partition(":")
    try:
        method: type[Method] = getattr(import_module(module), kind)
    except (ImportError, AttributeError) as error:
        if module.startswith("medssl."):
            raise  # a defect of our own
        raise UserError(
            f"The method {name!r} is registered as {known[name]}, which cannot be loaded ({error}); "
            "update or remove the package that registers it.",
            code="no-method",
        ) from error
    return method
