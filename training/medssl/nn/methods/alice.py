"""Alice (Jiang et al., ICCV 2023, arXiv 2302.05615): similar features at corresponding positions of patients.

A matcher finds corresponding positions of two scans; crops around them are the views Q and K. A student sees
them masked, its moving average (teacher) unmasked. The student reconstructs them (L_rec), predicts the
teacher's assignment of the other patient's view (L_cls) and of the cells of each view (L_patch). As masked
and unmasked cells do not correspond one to one, cross-attention (CASA) first expresses both by the same
queries. With H(t, s) = -sum softmax((t - c) / tau_t) log softmax(s / tau_s) and a running centre c:

    L_cls = (H(T_Q, S_K) + H(T_K, S_Q)) / 2,   L_patch = mean H(T, S) of CASA's outputs,   L_rec = MSE / 2
    L = L_cls + L_patch + 10 L_rec

Where we depart from the paper, and why:
- The network is our U-Net: cells of the deepest level stand for encoder tokens, those of the first decoder
  stage for decoder tokens, the deepest level's mean for the class token; the head reconstructs.
- The views' means are standardised over the batch: instance norms make them nearly equal, and L_cls ended at
  log K, the value of uniform predictions.
- The matcher (anatomical_embedding.py) is trained here, on the project's scans, in a stage of its own before
  the student's, each with its own learning-rate schedule. A continued training has its matcher already, and
  trains the student in both stages.
- Where figure and released code differ, we follow the figure: the teacher has a CASA of its own that follows
  the student's, and its encoder's cells are keys and values. `casa_teacher`, `kv_teacher` select the code's.
- The other scan is random (in the code the previous one), crops are equally large in mm (in voxels), and if
  no score exceeds the threshold the pair are two crops of one scan (the bad pair). See matched_views.py.
- Positions are drawn where a scan exceeds a fifth of its intensity range, in any modality (in the code above
  -125 HU and ten voxels from the far borders). Intensities are the project's (-125..225 HU as 0..1). Padding
  repeats the border voxel (0), and crops are moved inside where they fit. If the embeddings of all scans do
  not fit into memory, only some scans are paired at a time.
- `assignment` "sinkhorn" uses all prototypes about equally (Sinkhorn-Knopp, as in DINOv2). "centering", as
  published, subtracts the mean scores: with few scans a wide network assigns all cells to one prototype.
- Cubes are masked as in MAE, not columns (`mask_shape`), and become the mean of the visible voxels instead of
  0, which is -125 HU there and soft tissue here; their count is rounded down.
- No dropout in CASA: a resumed training could not repeat it. AdamW as everywhere: the published rates rise.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Generator, Tensor, nn

from medssl.core.errors import UserError
from medssl.core.events import Emit, Notice
from medssl.core.jobs import Plan
from medssl.nn.data.crops import CropBatch, cut, shown
from medssl.nn.data.device_dataset import DeviceDataset
from medssl.nn.data.matched_views import matched_views
from medssl.nn.methods import Method
from medssl.nn.methods.alice_parts import (
    CASA,
    AliceSettings,
    Head,
    across,
    cells_of,
    centering,
    cross_entropy,
    perplexity,
    reconstruction_loss,
    sinkhorn,
    teacher_temperature,
)
from medssl.nn.methods.common import (
    feature_std,
    momentum,
    network_of,
    stage_fraction,
    teacher_forward,
    teacher_in,
    update_ema,
    view_size,
)
from medssl.nn.methods.embedding_training import matching_loss
from medssl.nn.methods.mae import draw_mask, masked
from medssl.nn.models.anatomical_embedding import (
    AnatomicalEmbedding,
    matcher_in,
)
from medssl.nn.models.embedding_bank import EmbeddingBank
from medssl.nn.models.unet import Network
from medssl.nn.shards import mean_row, shard


class Alice(Method):
    """Alice pre-training: matcher, student, teacher and the loss of a batch of pairs."""

    Settings = AliceSettings
    TRANSFERS = ("encoder.", "decoder.")

    def __init__(self, network: Network, plan: Plan, settings: AliceSettings) -> None:
        self.plan, self.settings, self.stages = plan, settings, (0.0, settings.matching)
        hidden, prototypes = settings.hidden, settings.prototypes
        head = Head(plan.channels[-1], plan.channels[-2], hidden, settings.bottleneck, prototypes)
        casa = CASA(prototypes, settings.attention_heads, settings.attention_width, hidden)
        student = {"encoder": network.encoder, "head": head}
        if settings.kv_teacher == "decoder":
            student["decoder"] = network.decoder[0]
        if settings.casa_teacher == "ema":
            student["casa"] = casa
        self._student = nn.ModuleDict(student)  # the EMA's source; saved under other names
        teacher = copy.deepcopy(self._student).requires_grad_(False)
        centres = nn.Module()
        for name in ("whole", "cell"):
            centres.register_buffer(name, torch.zeros(prototypes))
        self.modules = nn.ModuleDict(
            {
                "network": network,
                "head": head,
                "casa": casa,
                "teacher": teacher,
                "centres": centres,
                "matcher": AnatomicalEmbedding(settings.dimension, plan.n_channels),
            }
        )
        self._ready: bool | None = None
        """Whether the matcher is trained; None until its buffer, which a checkpoint may set, is read."""

    def prepare(self, dataset: DeviceDataset, emit: Emit) -> None:
        """Set up the common grid; the first steps train the matcher.

        Raises:
            UserError: "one-scan" if there is only one.
        """
        if len(dataset) < 2:
            raise UserError(
                "Alice compares scans, and there is only one; add scans or choose another method, such as "
                "pgl or mae.",
                code="one-scan",
            )
        matcher = cast(AnatomicalEmbedding, self.modules["matcher"])
        self.embedding_bank = EmbeddingBank(dataset, matcher, self.settings)
        matcher.cell_mm.fill_(self.embedding_bank.cell_mm)
        self.emit = emit
        if self.embedding_bank.capacity < len(dataset):
            gib = len(dataset) * self.embedding_bank.vector_bytes / 2**30
            emit(
                Notice(
                    f"The embeddings of all {len(dataset)} scans would take {gib:.1f} GiB; at a time "
                    f"those of {self.embedding_bank.capacity} scans are kept and paired."
                )
            )

    def kept_bytes(self, scans: int) -> int:
        """The scans on the common grid and their embeddings."""
        return self.embedding_bank.kept_bytes(scans)

    def loss(
        self, dataset: DeviceDataset, generator: Generator, fraction: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The matcher's loss at first, then Alice's on a new batch of pairs.

        "accepted": fraction of the pairs matched across scans; "perplexity": effective number of prototypes
        in use (1 after a collapse); "feature_std": as in PGL.
        """
        if not self._matcher_ready(fraction):
            matching = matching_loss(self.embedding_bank, generator)
            return matching, {"matching": matching.detach()}
        student_fraction = stage_fraction(self.stages, fraction)
        first, second, accepted = self.pairs(self.plan, generator, student_fraction)
        own = shard(self.plan.batch)
        images = torch.cat([shown(cut(dataset, own.of(views), self.plan)) for views in (first, second)])
        own = own.pairs()
        visible = own.of(draw_visible(own.count, tuple(images.shape[2:]), self.settings, generator))
        loss, numbers = self.compare(images, visible.to(dataset.device), student_fraction)
        return loss, {**numbers, "accepted": accepted.float().mean()}

    def after_step(self, fraction: float) -> None:
        """Update the teacher, parameter by parameter."""
        if self._ready:
            mine = dict(self._student.named_parameters())
            theirs = dict(self.modules["teacher"].named_parameters())
            student = [mine[name] for name in theirs]
            keep = momentum(self.settings.momentum, stage_fraction(self.stages, fraction))
            update_ema([*theirs.values()], student, keep)

    @classmethod
    def embedding(cls, tensors: dict[str, Tensor]) -> AnatomicalEmbedding | None:
        """The matcher: it was trained for retrieval in other scans.

        Args:
            tensors: Named tensors of a checkpoint (any shape).
        """
        return matcher_in(tensors)

    def _matcher_ready(self, fraction: float) -> bool:
        ready = cast(AnatomicalEmbedding, self.modules["matcher"]).ready
        if self._ready is None:
            self._ready = bool(ready)
        if not self._ready and fraction >= self.settings.matching:
            self._ready = True
            ready.fill_(True)  # for good, also when the training is taken further
            self._announce()
        return self._ready

    def _announce(self) -> None:
        generator, trials = Generator().manual_seed(0), replace(self.plan, batch=32)
        accepted = self.pairs(trials, generator)[2]
        self.emit(
            Notice(
                "The matcher is trained; Alice now compares corresponding positions of two scans. "
                f"{100 * accepted.float().mean():.0f} % of {len(accepted)} trials had a match with a score "
                f"above {self.settings.threshold:g}; the other pairs come from one scan."
            )
        )

    def pairs(
        self, plan: Plan, generator: Generator, fraction: float = 0.0
    ) -> tuple[CropBatch, CropBatch, Tensor]:
        """Draw a batch of views Q and K, not cut yet, and which pairs were matched across scans (B,) bool.

        Args:
            plan: Gives the batch size B and the working spacing.
            generator: CPU generator of all draws.
            fraction: Fraction of the student's stage.
        """
        settings = self.settings
        size = view_size(self.embedding_bank.dataset, plan, settings.room)
        limits = settings.candidates, settings.threshold
        return matched_views(self.embedding_bank, plan, size, *limits, generator, fraction)

    def compare(self, images: Tensor, visible: Tensor, fraction: float) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of pairs that have been cut.

        Args:
            images: Views Q, then K (2B, C, ...).
            visible: Masks (2B, 1, ...), 0 where masked.
            fraction: Completed fraction of the student's training.

        Returns:
            Loss and scalars to log.
        """
        settings, network = self.settings, network_of(self.modules)
        head = cast(Head, self.modules["head"])
        levels = network.encode(masked(images, visible))
        maps = network.decoder_maps(levels, len(network.decoder))
        stage, finest = maps[1], maps[-1]
        reconstructed = network.head(finest)
        frozen = fraction < settings.freeze_last_layer
        cells = cells_of(levels[-1])
        cls = head(head.standard(cells.mean(1)), head.encoder, head.whole, frozen)
        queries = head(cells, head.encoder, head.cell, frozen)
        aligned = self.modules["casa"](queries, head(cells_of(stage), head.decoder, head.cell, frozen))
        teacher_cls, teacher_aligned, cell_std = self._teach(images, queries.detach())
        centres: Any = self.modules["centres"]
        target_cls = self._assign(teacher_cls, centres.whole, fraction)
        target = self._assign(teacher_aligned, centres.cell, fraction)
        inter = across(target_cls, cls, settings.student_temperature)
        intra = cross_entropy(target, aligned, settings.student_temperature)
        reconstruction = reconstruction_loss(reconstructed.float(), images, visible, settings.reconstruct_on)
        loss = settings.inter * inter + settings.intra * intra + settings.reconstruction * reconstruction
        numbers = {"inter": inter, "intra": intra, "reconstruction": reconstruction}
        detached = {name: value.detach() for name, value in numbers.items()}
        return loss, {**detached, "perplexity": perplexity(target), "feature_std": cell_std}

    @torch.no_grad()
    def _assign(self, scores: Tensor, centre: Tensor, fraction: float) -> Tensor:
        """The student's targets (..., K) from the teacher's scores (..., K); updates the centre."""
        settings = self.settings
        temperature = teacher_temperature(settings.teacher_temperature, fraction)
        if settings.assignment == "sinkhorn":
            own = shard(self.plan.batch).pairs()
            return cast(Tensor, own.of(sinkhorn(own.gathered(scores), temperature)))
        assignment = centering(scores, centre, temperature)
        centre.lerp_(mean_row(scores.flatten(0, -2)), 1 - settings.centering_momentum)
        return assignment

    @torch.no_grad()
    def _teach(self, images: Tensor, queries: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The teacher's scores of views (2B, K) and of cells after CASA (2B, n, K), and its `feature_std`."""
        teacher = teacher_in(self.modules)
        head = cast(Head, teacher["head"])
        levels = teacher_forward(teacher, images)
        cells = cells_of(levels[-1])
        cls = head(head.standard(cells.mean(1)), head.encoder, head.whole)
        keys = head(cells, head.encoder, head.cell)
        cell_std = feature_std(keys.flatten(0, 1))
        if "decoder" in teacher:
            keys = head(cells_of(teacher["decoder"](levels[-1], levels[-2])), head.decoder, head.cell)
        casa = teacher["casa"] if "casa" in teacher else self.modules["casa"]
        return cls, casa(queries, keys), cell_std


def draw_visible(batch: int, size: tuple[int, ...], settings: AliceSettings, generator: Generator) -> Tensor:
    """Draw block masks (batch, 1, *size) float32, 0 where masked; columns extend through all slices."""
    if settings.mask_shape == "columns":
        flat = draw_mask(batch, size[-2:], settings.block, settings.ratio, generator)
        return flat.reshape(batch, *[1] * (len(size) - 1), *size[-2:]).expand(batch, 1, *size)
    return draw_mask(batch, size, settings.block, settings.ratio, generator)[:, None]
