"""State of the job that runs in the engine."""

from __future__ import annotations

from dataclasses import dataclass

TITLES = {
    "pretrain": "Pre-training",
    "finetune": "Fine-tuning",
    "predict": "Segmentation",
    "export": "Export",
    "export-weights": "Export of the network",
    "features": "Computation of features",
    "suggest": "Search for the next slice",
}
"""Kinds of jobs as the window calls them."""


@dataclass(frozen=True)
class JobState:
    """The running job, or the last one. `notices` are messages for the user, the newest last."""

    kind: str = ""
    host: str = ""
    """The other computer that it runs on; empty for this one."""
    running: bool = False
    stopping: bool = False
    run: str | None = None
    phase: str = ""
    fraction: float = 0.0
    step: int = 0
    eta_s: float | None = None
    notices: tuple[str, ...] = ()
    error: str = ""
    """Why it failed, one sentence."""
    plan: tuple[str, ...] = ()
    """Reasons for the settings of the training."""

    @property
    def title(self) -> str:
        """The kind of the job as the window calls it."""
        return TITLES.get(self.kind, "A job")

    @property
    def is_training(self) -> bool:
        """Whether it is a training, which keeps its weights when it is stopped."""
        return self.kind in ("pretrain", "finetune")
