"""Pre-training methods, one file each; core/methods.py registers them. Importing this loads no torch."""

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
    """Interface between the engine and a method; nothing else of a method is known outside of its file.

    Subclasses set `plan` and `modules` and override what differs.
    """

    Settings: ClassVar[Any]
    """Frozen dataclass of the method's settings; recipes and jobs fill it."""
    TRANSFERS: ClassVar[tuple[str, ...]]
    """Prefixes of the names of the network's tensors that it trains and fine-tuning starts from."""
    DECODER_DESCRIBES: ClassVar[bool] = False
    """Whether the decoder's maps describe a position (Network.describe)."""
    NEEDS_SCANS: ClassVar[bool] = True
    """Whether the method learns from scans; core.methods.needs_scans says the same without torch."""
    SAME_TASK: ClassVar[tuple[str, ...]] = ()
    """Other methods with the same heads: a training that starts from their weights loads their heads, too."""
    plan: Plan
    modules: nn.ModuleDict
    """Everything to train or save; "network" is what fine-tuning loads."""
    stages: tuple[float, ...] = (0.0,)
    """Fractions of the training at which its stages begin; each has its own learning rate schedule."""

    def __init__(self, network: Network, plan: Plan, settings: Any) -> None:
        """Args:
        network: From images (B, C, ...) to as many channels (B, C, ...), and the maps of its levels.
        plan: Patch size, batch size, spacing, dimensions.
        settings: An instance of `Settings`.
        """
        raise NotImplementedError

    def prepare(self, dataset: DeviceDataset, emit: Emit) -> None:
        """Prepare what the steps need; the time counts as training.

        Args:
            dataset: Scans.
            emit: Receives notices.

        Raises:
            UserError: The scans do not allow the method; the message says what to do instead.
        """

    @classmethod
    def trial(cls, settings: Any, slices: int) -> tuple[dict[str, Any], float]:
        """How to time `prepare` before a training.

        Args:
            settings: Settings of the training.
            slices: Number of slices of all scans.

        Returns:
            {setting: value} that make `prepare` short, and how many times longer it takes with `settings`.
        """
        return {}, 1.0

    def kept_bytes(self, scans: int) -> int:
        """Bytes that the method needs for so many scans, besides the scans; call it after `prepare`."""
        return 0

    def loss(
        self, dataset: DeviceDataset, generator: Generator, fraction: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a new batch, and scalars to log.

        Of several processes each may compute the whole batch, or draw for all of it and compute a shard, the
        sums over which then pass through nn/shards.py; views of `common.cut_pair` are such a shard.

        Args:
            dataset: Scans.
            generator: CPU generator of all draws, the same in all processes.
            fraction: Completed fraction of the training.

        Returns:
            Loss and scalars. Among them, if the loss compares vectors, is "feature_std": their
            `common.feature_std`, from which collapse_monitor.py detects a collapse.
        """
        raise NotImplementedError

    def after_step(self, fraction: float) -> None:
        """Update what follows an optimizer step, such as a teacher."""

    @classmethod
    def embedding(cls, tensors: dict[str, Tensor]) -> AnatomicalEmbedding | None:
        """The network whose features describe a position, if the method has one of its own.

        Args:
            tensors: Named tensors of a checkpoint (any shape).

        Returns:
            The network; None if the maps of the trained network do (Network.describe).
        """
        return None


def method_of(card: dict[str, Any]) -> type[Method] | None:
    """The method that trained the weights of a card.

    Args:
        card: Model card.

    Returns:
        Its class; None for a fine-tuning and for an unknown method.

    Raises:
        UserError: "no-method": its package cannot be loaded.
    """
    name = str(card.get("method"))
    return find(name) if card.get("kind") == "pretrain" and name in ALL else None


def find(name: str) -> type[Method]:
    """The class of a method.

    Args:
        name: As on the command line, e.g. "pgl".

    Raises:
        UserError: "no-method"; the message lists the methods, or names a package whose method cannot be
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
