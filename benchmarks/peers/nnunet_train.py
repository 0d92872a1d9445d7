"""Trains nnU-Net for a given time; runs in nnU-Net's environment.

Plans, network, augmentation, loss and optimizer (SGD, momentum 0.99, learning rate 0.01, polynomial decay of
power 0.9) are nnU-Net's. The learning rate decays over the given time instead of 1,000 epochs, and the 50
validation batches of each epoch are skipped, because they are only logged.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from nnunetv2.paths import nnUNet_preprocessed
from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as stock


class nnUNetTrainer(stock.nnUNetTrainer):
    """nnU-Net's trainer, ending after `minutes`; it keeps its name because prediction looks for it."""

    minutes = 0.0
    marks: list[float]
    """Seconds after which the weights are saved, too; saving does not count as training time."""
    iterations = 0
    seconds = 0.0

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, None]:
        """nnU-Net's optimizer, without its scheduler (incompatible with newer torch), see `run_training`."""
        optimizer = torch.optim.SGD(
            self.network.parameters(),
            self.initial_lr,
            weight_decay=self.weight_decay,
            momentum=0.99,
            nesterov=True,
        )
        return optimizer, None

    def run_training(self) -> None:
        """Train until the time has passed, counted from the first step."""
        self.on_train_start()
        self.network.train()
        begin = time.monotonic()
        while (fraction := (time.monotonic() - begin) / (60 * self.minutes)) < 1:
            for group in self.optimizer.param_groups:
                group["lr"] = self.initial_lr * (1 - fraction) ** 0.9
            self.train_step(next(self.dataloader_train))
            self.iterations += 1
            now = time.monotonic()
            while self.marks and now - begin >= self.marks[0]:
                self.save_checkpoint(str(Path(self.output_folder) / f"checkpoint_{self.marks.pop(0):g}.pth"))
            begin += time.monotonic() - now
        self.seconds = time.monotonic() - begin
        self.on_train_end()


def main() -> None:
    """Train on the preprocessed dataset 1 and write a report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("configuration", help="2d or 3d_fullres")
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--mark", type=float, action="append", default=[], dest="marks")
    parser.add_argument("--device", required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    folder = next(Path(nnUNet_preprocessed).glob("Dataset001_*"))
    trainer = nnUNetTrainer(
        json.loads((folder / "nnUNetPlans.json").read_text()),
        options.configuration,
        "all",
        json.loads((folder / "dataset.json").read_text()),
        device=torch.device(options.device),
    )
    trainer.minutes, trainer.marks = options.minutes, sorted(options.marks)
    trainer.run_training()
    plan = trainer.configuration_manager
    report = {
        "seconds": trainer.seconds,
        "iterations": trainer.iterations,
        "batch": plan.batch_size,
        "patch": list(plan.patch_size),
        "threads": torch.get_num_threads(),
    }
    options.out.write_text(json.dumps(report))


if __name__ == "__main__":
    main()
