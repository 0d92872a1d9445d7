"""Pre-training methods, one file each; core/methods.py names them. Importing this package loads no torch."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar

from medssl.core.errors import UserError
from medssl.core.methods import ALL

if TYPE_CHECKING:
    from torch import Generator, Tensor, nn

    from medssl.core.events import Emit
    from medssl.core.jobs import Plan
    from medssl.nn.data.device_dataset import DeviceDataset
    from medssl.nn.models.anatomical_embedding import AnatomicalEmbedding
    from medssl.nn.models.unet import Network


class Method:
    """What the engine asks of a method; nothing else of it is known outside its file.

    Subclasses set `plan` and `modules`, and override what they do otherwise.
    """

    Settings: ClassVar[Any]
    """A frozen dataclass of the method's numbers; recipes and jobs fill it."""
    TRANSFERS: ClassVar[tuple[str, ...]]
    """Beginnings of the names of the network's tensors that it trains, and fine-tuning starts from."""
    DECODER_DESCRIBES: ClassVar[bool] = False
    """Whether places are compared by the decoder's maps (Network.describe)."""
    NEEDS_SCANS: ClassVar[bool] = True
    """Whether it learns from scans; core.methods.needs_scans says the same without torch."""
    SAME_TASK: ClassVar[tuple[str, ...]] = ()
    """Other methods with the same heads: a training that starts from their weights takes these over, too."""
    plan: Plan
    modules: nn.ModuleDict
    """Everything to train or keep; "network" is what fine-tuning takes."""
    stages: tuple[float, ...] = (0.0,)
    """Shares of the training at which its stages begin; the learning rate rises and falls in each."""

    def __init__(self, network: Network, plan: Plan, settings: Any) -> None:
        raise NotImplementedError

    def prepare(self, dataset: DeviceDataset, emit: Emit) -> None:
        """Make ready what steps need; the time counts as training.

        Raises UserError where these scans do not allow the method, in one sentence with what to do instead.
        """

    @classmethod
    def trial(cls, settings: Any, slices: int) -> tuple[dict[str, Any], float]:
        """How `prepare` is tried out before a training on scans with so many `slices` in all.

        Returns settings that make it short, by name, and how many times longer it takes with `settings`.
        """
        return {}, 1.0

    def kept_bytes(self, scans: int) -> int:
        """Bytes that it keeps of so many scans, beside the scans themselves; ask after `prepare`."""
        return 0

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
        raise NotImplementedError

    def after_step(self, fraction: float) -> None:
        """What follows an optimizer step."""

    @classmethod
    def embedding(cls, tensors: dict[str, Tensor]) -> AnatomicalEmbedding | None:
        """The network of its own by which places are compared, from a checkpoint's tensors.

        None where the network's maps (Network.describe) do.
        """
        return None


def method_of(card: dict[str, Any]) -> type[Method] | None:
    """The method that trained the weights of this card; None for a fine-tuning's, and where it is not known.

    Raises UserError ("no-method") where its package cannot be loaded.
    """
    name = card.get("method")
    return find(str(name)) if card.get("kind") == "pretrain" and name in ALL else None


def find(name: str) -> type[Method]:
    """The class of a method.

    Raises UserError ("no-method") that lists those there are, or names a package whose method cannot be
    loaded.
    """
    if name not in ALL:
        raise UserError(f"There is no method {name!r}; choose one of {', '.join(ALL)}.", code="no-method")
    module, _, kind = ALL[name].partition(":")
    try:
        method: type[Method] = getattr(import_module(module), kind)
    except (ImportError, AttributeError) as error:
        if module.startswith("medssl."):
            raise  # a defect of our own
        raise UserError(
            f"The method {name!r} is registered as {ALL[name]}, which cannot be loaded ({error}); "
            "update or remove the package that registers it.",
            code="no-method",
        ) from error
    if not (isinstance(method, type) and issubclass(method, Method)):
        raise UserError(
            f"The method {name!r} is registered as {ALL[name]}, which is no medssl.nn.methods.Method; update "
            "or remove the package that registers it.",
            code="no-method",
        )
    return method
