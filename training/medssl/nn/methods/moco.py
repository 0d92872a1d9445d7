"""MoCo v2, momentum contrast (He et al., arXiv 1911.05722; Chen et al., arXiv 2003.04297).

Of two views of one scan, the student (encoder, projector) maps the first to the query q, and its moving
average, the teacher, the second to the key k; both project the average of the deepest feature map. The query
must identify its key among those of earlier batches, which are kept in a queue. With s the cosine and t the
temperature (InfoNCE):

    L = - mean over pairs of log( exp(s(q, k) / t) / (exp(s(q, k) / t) + sum over queue of exp(s(q, n) / t)) )

Where we depart from the paper, and why:
- AdamW instead of SGD, a shorter queue (65536 there): few scans have few positions, and a queue that contains
  each of them many times separates equal ones. Keys of the batch itself are never in it, as published.
- The queue starts empty and grows; the published one starts full of random vectors. Those differ from any key
  even if all keys agree, so a training of minutes would spend its first part learning to collapse. The loss
  is 0 at the first step and rises until the queue is full.
- The mean of the latest projections is subtracted before they are compared (DINO's centering, arXiv
  2104.14294, for both networks). Pooled features of an untrained network hardly differ, since its instance
  norms remove the means that pooling measures, and neither do keys: queries told theirs from the queue's by
  age alone, "top1_accuracy" stayed at chance for hundreds of steps, and with a fast teacher the keys
  collapsed. MoCo v3 ends its projector in a batch norm for that, which reduces the two pairs of a 3D batch to
  signs.
- Batches are not shuffled between devices: there is no batch norm that could reveal which keys belong
  together.
- Views are those of our SimCLR, so that table rows differ only in what is learned.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from medssl.core.events import Emit, Notice
from medssl.core.jobs import Plan
from medssl.core.settings import Count, Positive, Range, Share
from medssl.nn.data.crops import CropBatch, shown
from medssl.nn.data.device_dataset import DeviceDataset
from medssl.nn.devices import full_precision
from medssl.nn.methods import Method
from medssl.nn.methods.common import (
    check_positions,
    check_positive,
    cut_pair,
    feature_std,
    mlp,
    network_of,
    pooled,
    sample_view_pairs,
    teacher_forward,
    teacher_in,
    teacher_of,
    update_teacher,
)
from medssl.nn.models.unet import Network
from medssl.nn.shards import mean_row, shard


@dataclass(frozen=True)
class MoCoSettings:
    """MoCo v2's values, with a queue for hundreds of scans instead of a million photographs."""

    zoom: Range = (1.1, 1.4)
    """Side of a view in patches, drawn for each view."""
    shared: Share = 0.5
    """Least fraction of a view's side that a pair shares along every axis."""
    temperature: Positive = 0.2
    """Temperature of the contrastive loss: smaller is stricter."""
    queue: Count = 16384
    """Keys of earlier batches that serve as negatives."""
    momentum: Share = 0.999
    """Momentum of the teacher, constant."""
    hidden: Count = 2048
    """Width of the hidden layer of projector and predictor."""
    dimension: Count = 128
    """Length of the vectors that the loss compares."""


class MoCo(Method):
    """MoCo pre-training: student, teacher, queue and the loss of a batch of pairs."""

    Settings = MoCoSettings
    TRANSFERS = ("encoder.",)  # the decoder takes no part, and stays random

    def __init__(self, network: Network, plan: Plan, settings: MoCoSettings) -> None:
        check_positive(settings, "temperature", "queue")
        self.plan, self.settings = plan, settings
        projector = nn.Sequential(
            mlp(plan.channels[-1], settings.hidden, settings.dimension, norm=False),
            Centre(settings.dimension),
        )
        self.modules = nn.ModuleDict(
            {
                "network": network,
                "projector": projector,
                "teacher": teacher_of(network, projector),
                "queue": Queue(settings.queue, settings.dimension),
            }
        )
        self.keys: Tensor | None = None
        """Keys of the current step (B, C); they enter the queue after it."""

    def prepare(self, dataset: DeviceDataset, emit: Emit) -> None:
        """Notify the user that the loss rises at first, as in no other method.

        Raises:
            UserError: "one-place" if there are no negatives.
        """
        check_positions(dataset, self.plan, self.settings.zoom[1], "MoCo")
        steps = math.ceil(self.settings.queue / self.plan.batch)
        emit(Notice(f"MoCo's loss rises from 0 for {steps} steps, while its queue of negatives fills."))

    def loss(
        self, dataset: DeviceDataset, generator: Generator, fraction: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """InfoNCE of a new batch of pairs, and `top1_accuracy`."""
        return self.compare(*self.views(dataset, generator))

    def views(self, dataset: DeviceDataset, generator: Generator) -> tuple[CropBatch, CropBatch]:
        """Draw and cut a batch of pairs, with the published intensity augmentation drawn for each view."""
        settings = self.settings
        pair = sample_view_pairs(
            dataset, self.plan, generator, zoom=settings.zoom, shared=settings.shared, apart=True
        )
        return cut_pair(dataset, self.plan, pair, generator)

    def compare(self, first: CropBatch, second: CropBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of pairs that have been cut; `after_step` adds the second views' keys to the queue.

        Returns:
            Loss and scalars to log.
        """
        network, teacher = network_of(self.modules), teacher_in(self.modules)
        queue = cast(Queue, self.modules["queue"])
        own = shard(self.plan.batch)
        queries = self.modules["projector"](pooled(network.encode(shown(first))[-1]))
        with torch.no_grad():
            keys = teacher["projector"](pooled(teacher_forward(teacher, shown(second))[-1]))
        std = feature_std(torch.cat([queries, keys]))
        queries, keys = own.gathered(queries), own.gathered(keys)
        self.keys = F.normalize(keys.float(), dim=1, eps=1e-6)
        loss = info_nce(queries, self.keys, queue.keys, queue.waiting(), self.settings.temperature)
        return loss, {
            "feature_std": std,
            "top1_accuracy": top1_accuracy(queries, self.keys),
        }

    def after_step(self, fraction: float) -> None:
        """Update the teacher and add the step's keys to the queue.

        Not during the step: its gradient needs the old queue, and a step that fails must not leave keys.
        """
        update_teacher(self.modules, self.settings.momentum)
        if self.keys is not None:
            cast(Queue, self.modules["queue"]).put(self.keys)
            self.keys = None


class Centre(nn.Module):
    """Subtracts the running mean of projections, in fp32 and without a gradient through the mean."""

    KEEP = 0.9
    """Momentum of the running mean; it is the mean of all batches while there are fewer than ten."""
    mean: Tensor
    batches: Tensor

    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dimension))
        self.register_buffer("batches", torch.zeros(()))

    def forward(self, projected: Tensor) -> Tensor:
        """Update the mean and subtract it.

        Args:
            projected: Projections (B, C).

        Returns:
            Centred projections (B, C) float32.
        """
        projected = projected.float()
        with torch.no_grad():
            self.batches += 1
            weight = (1 / self.batches).clamp(min=1 - self.KEEP)
            self.mean.lerp_(mean_row(projected), weight)
        return projected - self.mean


class Queue(nn.Module):
    """First-in, first-out queue of keys; its tensors are saved with the weights."""

    keys: Tensor
    """Unit vectors (length, C)."""
    count: Tensor
    """Number of keys ever added, scalar."""

    def __init__(self, length: int, dimension: int) -> None:
        super().__init__()
        self.register_buffer("keys", torch.zeros(length, dimension))
        self.register_buffer("count", torch.zeros((), dtype=torch.long))

    def waiting(self) -> Tensor:
        """Which slots hold a key (length,) bool."""
        return torch.arange(len(self.keys), device=self.keys.device) < self.count

    @torch.no_grad()
    def put(self, keys: Tensor) -> None:
        """Add keys, overwriting the oldest; of more keys than the queue holds, the last ones remain.

        Args:
            keys: Unit vectors (n, C).
        """
        latest = torch.arange(len(keys), device=keys.device)[-len(self.keys) :]
        self.keys.index_copy_(0, (self.count + latest) % len(self.keys), keys[latest])
        self.count += len(keys)


@full_precision
def info_nce(queries: Tensor, keys: Tensor, negatives: Tensor, usable: Tensor, temperature: float) -> Tensor:
    """InfoNCE (see the module's equation).

    Args:
        queries: Queries (B, C), normalised here.
        keys: Key of each query (B, C), normalised here.
        negatives: Keys of other views (N, C), normalised here.
        usable: Which negatives to use (N,) bool.
        temperature: Divides the cosines.

    Returns:
        Scalar; 0 without negatives.
    """
    query, key, negative = (
        F.normalize(vectors.float(), dim=1, eps=1e-6) for vectors in (queries, keys, negatives)
    )
    positive_scores = (query * key).sum(1, keepdim=True)
    negative_scores = (query @ negative.T).masked_fill(~usable, -torch.inf)
    logits = torch.cat([positive_scores, negative_scores], dim=1) / temperature
    return F.cross_entropy(logits, torch.zeros(len(query), dtype=torch.long, device=query.device))


@torch.no_grad()
@full_precision
def top1_accuracy(queries: Tensor, keys: Tensor) -> Tensor:
    """Fraction of the queries that are closer to their key than to any other key of the batch.

    Keys of the queue are not used, as they differ by age: with a teacher that changes too fast, and
    collapses, every key is identified among them.

    Args:
        queries: Queries (B, C), normalised here.
        keys: Key of each query (B, C), normalised here.

    Returns:
        Scalar in 0..1.
    """
    query, key = (F.normalize(vectors.float(), dim=1, eps=1e-6) for vectors in (queries, keys))
    nearest = (query @ key.T).argmax(1)
    return (nearest == torch.arange(len(query), device=query.device)).float().mean()
