"""Trains nnU-Net for so many minutes; runs in nnU-Net's environment, not in ours.

Everything is nnU-Net's own (plans, network, augmentation, loss, SGD with momentum 0.99, learning rate 0.01
falling with power 0.9) but for the length: the rate falls over the minutes instead of over 1,000 epochs. The
50 validation batches of each epoch are left out, for they only feed a log; the time goes to training.
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
    """nnU-Net's trainer with an end after `minutes`; by its name nnU-Net's own commands find the weights."""

    minutes = 0.0
    marks: list[float]
    """Seconds after which the weights are kept, too; writing them takes none of the minutes."""
    iterations = 0
    seconds = 0.0

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, None]:
        """nnU-Net's optimizer. Its scheduler does not run with newer torch: `run_training` sets the rate."""
        optimizer = torch.optim.SGD(
            self.network.parameters(),
            self.initial_lr,
            weight_decay=self.weight_decay,
            momentum=0.99,
            nesterov=True,
        )
        return optimizer, None

    def run_training(self) -> None:
        """Take steps until the time is over; the clock starts with the first of them."""
        self.on_train_start()
        self.network.train()
        begin = time.monotonic()
        while (gone := (time.monotonic() - begin) / (60 * self.minutes)) < 1:
            for group in self.optimizer.param_groups:
                group["lr"] = self.initial_lr * (1 - gone) ** 0.9
            self.train_step(next(self.dataloader_train))
            self.iterations += 1
            passed = time.monotonic()
            while self.marks and passed - begin >= self.marks[0]:
                self.save_checkpoint(str(Path(self.output_folder) / f"checkpoint_{self.marks.pop(0):g}.pth"))
            begin += time.monotonic() - passed
        self.seconds = time.monotonic() - begin
        self.on_train_end()


def main() -> None:
    """Train on the preprocessed dataset 1 and say in a file how far it came."""
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
    told = {
        "seconds": trainer.seconds,
        "iterations": trainer.iterations,
        "batch": plan.batch_size,
        "patch": list(plan.patch_size),
        "threads": torch.get_num_threads(),
    }
    options.out.write_text(json.dumps(told))


if __name__ == "__main__":
    main()
