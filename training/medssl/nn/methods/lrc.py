"""LRC, localized region contrast (Yan et al., arXiv 2304.03406): a local loss on top of a global method.

A global method (MoCo, SimCLR, BYOL) makes one vector of a whole view and leaves the decoder as it is. LRC
cuts slices into super-pixels, draws N of them in a view and K pixels in each, and asks of the decoder's
features f that pixels of one region are alike and those of different regions are not. With s the cosine and
t the temperature:

    L_local = - mean over n, a, b != a of log( e(na, nb) / (e(na, nb) + sum over m != n, c of e(na, mc)) )
    e(na, mc) = exp(s(f_na, f_mc) / t),     L = L_global + local_weight * L_local

No code was found, and neither the loss's formula nor its numbers; this is its most likely reading: one
logarithm a positive, negatives from the same view only (another scan shows the same organs).

Where we depart from the paper or decide what it leaves open, and why:
- One network with both losses at once, where the paper seems to train a branch for each and to join them for
  the segmentation: that would double what a prediction costs.
- Views for the local loss are drawn by themselves, since only some slices are cut into super-pixels: cutting
  all of them would take longer than a short training, and evenly spread ones show what the others show.
- Regions are cut in the unchanged slice; labels follow the view by nearest neighbour, none beyond the scan.
- The projector, two 1x1 convolutions, works on the drawn pixels alone: the same numbers, a tenth of the work.
- A view with one region has no negatives; it is skipped, and does not dilute the others.
- 2.5D only. Regions are two-dimensional as published; in a 3D patch every slice would have regions of its
  own, the same tissue one slice further would count as a negative, and every slice would have to be cut.
- AdamW for SGD.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from medssl.core import recipes
from medssl.core.errors import UserError
from medssl.core.events import Emit, Notice, Progress
from medssl.core.jobs import Plan, from_json
from medssl.nn.data.augment import PUBLISHED, change_intensity
from medssl.nn.data.crop_sampling import sample_anywhere
from medssl.nn.data.crops import cut, cut_targets, shown
from medssl.nn.data.device_dataset import DeviceDataset
from medssl.nn.data.superpixels import IGNORE, SuperpixelParams, SuperPixels, draw_pixels, segment_dataset
from medssl.nn.devices import full_precision
from medssl.nn.methods import find
from medssl.nn.methods.common import need_positive, network_of, view_size
from medssl.nn.models.unet import Network

NOTHING = -1e30
"""Stands for the similarity to what does not count; unlike minus infinity it has a gradient, 0."""


@dataclass(frozen=True)
class LRCSettings:
    """What the sheet of tried-out numbers says; the paper's are not known."""

    base: Literal["moco", "simclr", "byol"] = "moco"
    """The global method below the local loss."""
    base_recipe: str = "quick"
    """The global method's numbers are those of its recipe of this name ..."""
    base_settings: dict[str, Any] = field(default_factory=dict)
    """... but for these."""
    local_weight: float = 1.0
    """Weight of the local loss; 0 is the global method exactly."""
    regions: int = 50
    """N, regions drawn in a view; all where there are fewer."""
    samples: int = 10
    """K, pixels drawn in a region; some more than once where there are fewer."""
    temperature: float = 0.1
    dimension: int = 64
    zoom: tuple[float, float] = (0.8, 1.2)
    """Side of a view in patches, drawn for each."""
    slices: int = 5000
    """How many slices, of all scans together, are cut into super-pixels beforehand."""
    side: int = 256
    scale: float = 50.0
    sigma: float = 0.8
    min_size: int = 50
    """With `side`, `scale` and `sigma` how fine super-pixels are (superpixels.Grain)."""

    def superpixel_params(self) -> SuperpixelParams:
        return SuperpixelParams(self.side, self.scale, self.sigma, self.min_size)


class LRC:
    """A global method, whose modules these are, and a projector for pixels."""

    Settings = LRCSettings
    TRANSFERS = ("encoder.", "decoder.")

    def __init__(self, network: Network, plan: Plan, settings: LRCSettings) -> None:
        need_positive(settings, "temperature", "slices", "side", "scale", "min_size")
        self.settings = settings
        kind = find(settings.base)
        numbers = {
            **recipes.read(f"{settings.base}-{settings.base_recipe}").method,
            **settings.base_settings,
        }
        # First of all: it must draw the same first weights as it would alone.
        self.base = kind(network, plan, from_json(kind.Settings, numbers, "base_settings"))
        self.modules = self.base.modules
        width = plan.channels[0]
        self.modules["local"] = nn.Sequential(
            nn.Linear(width, width), nn.ReLU(inplace=True), nn.Linear(width, settings.dimension)
        )
        self.superpixels: SuperPixels | None = None

    @property
    def plan(self) -> Plan:
        return self.base.plan

    @plan.setter
    def plan(self, plan: Plan) -> None:
        self.base.plan = plan

    def prepare(self, dataset: DeviceDataset, emit: Emit) -> None:
        """Cut slices into super-pixels.

        Raises UserError ("not-2d", "bad-job", "no-regions") where scans or settings leave nothing to
        contrast, and what the global method raises.
        """
        self.base.prepare(dataset, emit)
        if self.settings.local_weight == 0:
            return
        _check(self.plan, self.settings)
        begin = time.monotonic()
        found = segment_dataset(dataset, self.settings.superpixel_params(), self.settings.slices, _said(emit))
        if found is None:
            raise UserError(
                f"{dataset.ids[0]} and all other scans are empty or of one grey in every slice that was "
                "looked "
                "at, and LRC needs regions to tell apart; take scans that show something, or choose mae.",
                code="no-regions",
            )
        self.superpixels = found
        done, total = sum(map(len, found.slices)), sum(map(len, dataset.images))
        emit(
            Notice(
                f"{done} of {total} slices were cut into super-pixels in {time.monotonic() - begin:.0f} s, "
                f"typically {found.median_regions:.0f} a slice."
            )
        )

    def loss(
        self, dataset: DeviceDataset, generator: Generator, fraction: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The global method's loss of a new batch, and the local one of another; both are curves too.

        "skipped" is the share of views with fewer than two regions.
        """
        if self.settings.local_weight == 0:
            return self.base.loss(dataset, generator, fraction)
        own = branch(generator)
        whole, numbers = self.base.loss(dataset, generator, fraction)
        local, skipped = self.local(own)
        loss = whole + self.settings.local_weight * local
        return loss, {**numbers, "global": whole.detach(), "local": local.detach(), "skipped": skipped}

    def views(self, generator: Generator) -> tuple[Tensor, Tensor]:
        """A batch of images (B, S, H, W) of slices that have super-pixels, and labels (B, H, W) long."""
        dataset, slices = self._prepared().dataset, self._prepared().slices
        size = view_size(dataset, self.plan, self.settings.zoom[1])
        views = sample_anywhere(dataset, self.plan, size, generator, zoom=self.settings.zoom)
        counts = torch.tensor([len(each) for each in slices])[views.scan]
        # Which of the scan's label maps, and which slice that is.
        row = (torch.rand(len(views), generator=generator) * counts).long()
        chosen = torch.stack([slices[scan][nth] for scan, nth in zip(views.scan, row, strict=True)])
        views = replace(views, flip=torch.rand(len(views), 3, generator=generator) < 0.5)
        rows, columns = views.centre[:, 1], views.centre[:, 2]
        there = replace(views, centre=torch.stack([chosen.float(), rows, columns], 1))
        on_map = replace(views, centre=torch.stack([row.float(), rows, columns], 1))
        labels = cut_targets(dataset, on_map, self.plan, fill_value=IGNORE)
        return change_intensity(shown(cut(dataset, there, self.plan)), PUBLISHED, generator), labels

    def local(self, generator: Generator) -> tuple[Tensor, Tensor]:
        """The local loss of a new batch of views, and the share of them that was skipped."""
        network, settings = network_of(self.modules), self.settings
        images, labels = self.views(generator)
        most = self._prepared().regions
        at, valid = draw_pixels(labels, most, settings.regions, settings.samples, generator)
        decoded = network.decode(network.encode(images)).flatten(2)
        drawn = decoded.gather(2, at.flatten(1)[:, None].expand(-1, decoded.shape[1], -1))
        vectors = self.modules["local"](drawn.transpose(1, 2)).reshape(*at.shape, -1)
        loss, used = region_contrast(vectors, valid, settings.temperature)
        return loss, 1 - used.float().mean()

    def after_step(self, fraction: float) -> None:
        """What the global method does."""
        self.base.after_step(fraction)

    def _prepared(self) -> SuperPixels:
        if self.superpixels is None:
            raise ValueError("prepare comes before the first step")
        return self.superpixels


def branch(generator: Generator) -> Generator:
    """A generator that follows from the state of `generator`, which is left as it was.

    So what the local loss draws changes nothing for the global method, and goes on as before after a resume.
    """
    copy = Generator()
    copy.set_state(generator.get_state())
    return Generator().manual_seed(int(torch.randint(2**62, (), generator=copy)))


@full_precision
def region_contrast(vectors: Tensor, valid: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Local contrastive sampling loss of vectors (B, N, K, C), and which views (B,) bool took part.

    `valid` (B, N) says which regions there are. A view with fewer than two of them has no negatives, one with
    K = 1 no positives: there is no loss and no gradient. The mean goes over the others; 0 if there are none.
    """
    unit = F.normalize(vectors.float(), dim=-1, eps=1e-6)
    regions, samples = unit.shape[1:3]
    flat = unit.flatten(1, 2)
    positive_mask = flat @ flat.transpose(1, 2) / temperature
    return contrast(positive_mask.unflatten(2, (regions, samples)).unflatten(1, (regions, samples)), valid)


def contrast(positive_mask: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """`region_contrast` of the similarities (B, N, K, N, K) of all pixels, over the temperature."""
    regions, samples = positive_mask.shape[1:3]
    other = valid[:, :, None] & valid[:, None] & ~torch.eye(regions, dtype=torch.bool, device=valid.device)
    negatives = (
        positive_mask.masked_fill(~other[:, :, None, :, None], NOTHING).flatten(3).logsumexp(3)
    )  # (B, n, a)
    positives = positive_mask.diagonal(dim1=1, dim2=3).movedim(-1, 1)  # (B, n, a, b)
    # -log(p / (p + q)) = log(1 + q / p)
    surprise = F.softplus(negatives[..., None] - positives)
    itself = torch.eye(samples, dtype=torch.bool, device=valid.device)
    each = surprise.masked_fill(itself, 0).sum((2, 3)) / max(1, samples * (samples - 1))  # (B, n)
    there = valid.sum(1)
    loss = (each * valid).sum(1) / there.clamp(min=1)
    used = (there >= 2) & (samples >= 2)
    return torch.where(used, loss, 0.0).sum() / used.sum().clamp(min=1), used


def _check(plan: Plan, settings: LRCSettings) -> None:
    if plan.dims != 2:
        raise UserError(
            "LRC cuts slices into regions, and these scans would be looked at in 3D; set dims=2 or choose "
            f"{settings.base}.",
            code="not-2d",
        )
    for name in ("regions", "samples"):
        value = getattr(settings, name)
        if value < 2:
            raise UserError(
                f"{name} is {value}, which leaves LRC nothing to contrast; write a number of at least 2.",
                code="bad-job",
            )


def _said(emit: Emit) -> Callable[[float], None]:
    """Progress in whole percents; there can be thousands of scans."""
    said = [-1]

    def say(fraction: float) -> None:
        if (percent := int(100 * fraction)) > said[-1]:
            said.append(percent)
            emit(Progress("super-pixels", fraction))

    return say
