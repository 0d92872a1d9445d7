"""MoCo v2, momentum contrast (He et al., arXiv 1911.05722; Chen et al., arXiv 2003.04297).

Two boxes cut from one scan: the first goes through the student (encoder, projector) and gives the query q,
the second through its moving average, the teacher, and gives the key k; each is projected from the average
over the deepest feature map. The query must find its key among those of earlier batches, which wait in a
queue. With s the cosine and t the temperature (InfoNCE):

    L = - mean over pairs of log( exp(s(q, k) / t) / (exp(s(q, k) / t) + sum over queue of exp(s(q, n) / t)) )

Where we depart from the paper, and why:
- AdamW instead of SGD, a shorter queue (65536 there): few scans hold few places, and a queue that sees each
  of them many times pushes apart what is the same. Keys of the batch itself are never in it, as published.
- The queue starts empty and grows; the published one starts full of random vectors. Those are told from any
  key even if all keys agree, so a training of minutes would spend its first part learning to collapse. The
  loss is 0 at the first step and rises until the queue is full.
- What the latest projections have in common is taken off before they are compared (DINO's centring, arXiv
  2104.14294, for both networks). Pooled features of an untrained network hardly differ, since its instance
  norms even out what pooling looks at, and neither do keys: queries told theirs from the queue's by age
  alone, "top1_accuracy" stayed at chance for hundreds of steps, and with a quick teacher the keys
  collapsed. MoCo v3
  ends its projector in a batch norm for that, which leaves of the two pairs of a 3D batch nothing but signs.
- Batches are not shuffled between devices: no batch norm could betray which keys came together.
- Views are those of our SimCLR, for tables in which rows differ in what is learned.
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
from medssl.nn.data.crops import CropBatch, shown
from medssl.nn.data.device_dataset import DeviceDataset
from medssl.nn.devices import full_precision
from medssl.nn.methods.common import (
    cut_pair,
    feature_std,
    mlp,
    move_teacher,
    need_places,
    need_positive,
    network_of,
    place_pairs,
    pooled,
    teacher_forward,
    teacher_in,
    teacher_of,
)
from medssl.nn.models.unet import Network


@dataclass(frozen=True)
class MoCoSettings:
    """MoCo v2's numbers, with a queue for hundreds of scans instead of a million photographs."""

    zoom: tuple[float, float] = (1.1, 1.4)
    """Side of a box in patches, drawn for each box."""
    shared: float = 0.5
    """Least share of a box's side that its partner sees too, along every axis."""
    temperature: float = 0.2
    queue: int = 16384
    """Keys of earlier batches that wait as negatives."""
    momentum: float = 0.999
    """The teacher's, throughout."""
    hidden: int = 2048
    dimension: int = 128


class MoCo:
    """Student, teacher, queue and what a step makes of a batch of pairs."""

    Settings = MoCoSettings
    TRANSFERS = ("encoder.",)  # the decoder takes no part, and stays random

    def __init__(self, network: Network, plan: Plan, settings: MoCoSettings) -> None:
        need_positive(settings, "temperature", "queue")
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
        """Of the running step; they queue up after it."""

    def prepare(self, dataset: DeviceDataset, emit: Emit) -> None:
        """Say why the loss will rise at first, which it does in no other method.

        Raises UserError ("one-place") where there is nothing to tell views from.
        """
        need_places(dataset, self.plan, self.settings.zoom[1], "MoCo")
        steps = math.ceil(self.settings.queue / self.plan.batch)
        emit(Notice(f"MoCo's loss rises from 0 for {steps} steps, while keys gather to tell views from."))

    def loss(
        self, dataset: DeviceDataset, generator: Generator, fraction: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """InfoNCE of a new batch of pairs; "top1_accuracy" says for how many queries the own key is
        nearest."""
        return self.compare(*self.views(dataset, generator))

    def views(self, dataset: DeviceDataset, generator: Generator) -> tuple[CropBatch, CropBatch]:
        """A batch of pairs, cut and with the published grey-value changes, each view by itself."""
        settings = self.settings
        pair = place_pairs(
            dataset, self.plan, generator, zoom=settings.zoom, shared=settings.shared, apart=True
        )
        return cut_pair(dataset, self.plan, pair, generator)

    def compare(self, first: CropBatch, second: CropBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of pairs that have been cut; the second views' keys queue up in `after_step`."""
        network, teacher = network_of(self.modules), teacher_in(self.modules)
        queue = cast(Queue, self.modules["queue"])
        queries = self.modules["projector"](pooled(network.encode(shown(first))[-1]))
        with torch.no_grad():
            keys = teacher["projector"](pooled(teacher_forward(teacher, shown(second))[-1]))
        self.keys = F.normalize(keys.float(), dim=1, eps=1e-6)
        loss = info_nce(queries, self.keys, queue.keys, queue.waiting(), self.settings.temperature)
        return loss, {
            "feature_std": feature_std(torch.cat([queries, keys])),
            "top1_accuracy": top1_accuracy(queries, self.keys),
        }

    def after_step(self, fraction: float) -> None:
        """Move the teacher a little towards the student, and let the step's keys queue up.

        Not while the step runs: its gradient needs the queue as it was, and a step that fails leaves no keys.
        """
        move_teacher(self.modules, self.settings.momentum)
        if self.keys is not None:
            cast(Queue, self.modules["queue"]).put(self.keys)
            self.keys = None


class Centre(nn.Module):
    """Takes off the mean of the latest projections (B, C), in fp32; no gradient goes through it."""

    KEEP = 0.9
    """Of the mean, at each batch; the mean of all batches while there are fewer than ten."""
    mean: Tensor
    batches: Tensor

    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dimension))
        self.register_buffer("batches", torch.zeros(()))

    def forward(self, projected: Tensor) -> Tensor:
        projected = projected.float()
        with torch.no_grad():
            self.batches += 1
            share = (1 / self.batches).clamp(min=1 - self.KEEP)
            self.mean.lerp_(projected.mean(0), share)
        return projected - self.mean


class Queue(nn.Module):
    """The latest keys, the oldest replaced first. Its tensors are saved with the weights."""

    keys: Tensor
    """(length, C) unit vectors."""
    count: Tensor
    """() How many have ever come."""

    def __init__(self, length: int, dimension: int) -> None:
        super().__init__()
        self.register_buffer("keys", torch.zeros(length, dimension))
        self.register_buffer("count", torch.zeros((), dtype=torch.long))

    def waiting(self) -> Tensor:
        """(length,) bool: which places hold a key."""
        return torch.arange(len(self.keys), device=self.keys.device) < self.count

    @torch.no_grad()
    def put(self, keys: Tensor) -> None:
        """Add (n, C) keys behind the latest; of more than there is room for, the last ones stay."""
        latest = torch.arange(len(keys), device=keys.device)[-len(self.keys) :]
        self.keys.index_copy_(0, (self.count + latest) % len(self.keys), keys[latest])
        self.count += len(keys)


@full_precision
def info_nce(queries: Tensor, keys: Tensor, negatives: Tensor, usable: Tensor, temperature: float) -> Tensor:
    """InfoNCE of queries (B, C) and their keys (B, C).

    negatives: (N, C), of which those that are not `usable` (N,) do not count; without any the loss is 0.
    """
    query, key, negative = (F.normalize(each.float(), dim=1, eps=1e-6) for each in (queries, keys, negatives))
    own = (query * key).sum(1, keepdim=True)
    others = (query @ negative.T).masked_fill(~usable, -torch.inf)
    scores = torch.cat([own, others], dim=1) / temperature
    return F.cross_entropy(scores, torch.zeros(len(query), dtype=torch.long, device=query.device))


@torch.no_grad()
@full_precision
def top1_accuracy(queries: Tensor, keys: Tensor) -> Tensor:
    """The share of queries (B, C) that are nearer to their key (B, C) than to any other of the batch.

    Not than to those of the queue, which differ by their age: a teacher that moves too fast, and collapses,
    finds every key among them.
    """
    query, key = (F.normalize(each.float(), dim=1, eps=1e-6) for each in (queries, keys))
    nearest = (query @ key.T).argmax(1)
    return (nearest == torch.arange(len(query), device=query.device)).float().mean()
