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

PARTS = ("comparing", "sending", "receiving", "prediction")
"""Phases of a training whose share is not that of the training."""


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

    @property
    def progress(self) -> str:
        """The completed share: "42%"; that of a part of the job has its name: "receiving 42%"."""
        part = self.phase in PARTS and not (self.kind == "predict" and self.phase == "prediction")
        return f"{self.phase} {self.fraction:.0%}" if part else f"{self.fraction:.0%}"
