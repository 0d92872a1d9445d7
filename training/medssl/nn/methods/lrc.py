"""LRC, localized region contrast (Yan et al., arXiv 2304.03406): a local loss on top of a global method.

A global method (MoCo, SimCLR, BYOL) describes a whole view by one vector and does not train the decoder. LRC
segments slices into superpixels, draws N of them in a view and K pixels in each, and contrasts the decoder's
features f: pixels of one region attract, those of different regions repel. With s the cosine and t the
temperature:

    L_local = - mean over n, a, b != a of log( e(na, nb) / (e(na, nb) + sum over m != n, c of e(na, mc)) )
    e(na, mc) = exp(s(f_na, f_mc) / t),     L = L_global + local_weight * L_local

No code was found, and neither the loss's formula nor its numbers; this is its most likely reading: one
logarithm per positive, negatives from the same view only (another scan shows the same organs).

Where we depart from the paper or decide what it leaves open, and why:
- One network with both losses at once, where the paper seems to train a branch for each and to join them for
  the segmentation: that would double the cost of a prediction.
- The local loss has views of its own, since only some slices have superpixels: segmenting all slices would
  take longer than a short training, and evenly spaced ones represent the others.
- Voxels outside the body belong to no region: most regions would be air, distinguished by that alone.
- Regions are segmented in the original slice; labels are resampled by nearest neighbour, none beyond it.
- The projector, two 1x1 convolutions, is applied to the drawn pixels alone: same result, a tenth of the work.
- A view with one region has no negatives; it is skipped, and does not dilute the others. A region of
  one pixel has no positives and only provides negatives.
- 2.5D only. Regions are two-dimensional as published; in a 3D crop every slice would have regions of its own,
  the same tissue in the next slice would count as a negative, and every slice would have to be segmented.
- AdamW for SGD.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Generator, Tensor, nn

from medssl.core import recipes
from medssl.core.errors import UserError
from medssl.core.events import Emit, Notice, Progress
from medssl.core.jobs import Plan, from_json
from medssl.core.settings import Count, NotNegative, Positive, Range
from medssl.nn.data.augment import PUBLISHED, change_intensity
from medssl.nn.data.crop_sampling import sample_anywhere
from medssl.nn.data.crops import cut, cut_targets, shown
from medssl.nn.data.device_dataset import DeviceDataset
from medssl.nn.data.superpixels import IGNORE, SuperpixelParams, SuperPixels, draw_pixels, segment_dataset
from medssl.nn.methods import Method, find
from medssl.nn.methods.common import check_positive, network_of, view_size
from medssl.nn.methods.region_contrast import region_contrast
from medssl.nn.models.unet import Network
from medssl.nn.shards import mean, shard

TRIAL_SLICES = 8
"""Slices that a trial segments into superpixels."""


@dataclass(frozen=True)
class LRCSettings:
    """Settings found by experiment; the paper's are not known."""

    base: Literal["moco", "simclr", "byol"] = "moco"
    """The global method."""
    base_recipe: str = "quick"
    """Recipe that gives the global method's settings."""
    base_settings: dict[str, Any] = field(default_factory=dict)
    """Settings of the global method that override its recipe."""
    local_weight: NotNegative = 1.0
    """Weight of the local loss; 0 is exactly the global method."""
    regions: int = 50
    """N, regions drawn per view; all if a view has fewer."""
    samples: int = 10
    """K, pixels drawn per region; they repeat if a region has fewer."""
    temperature: Positive = 0.1
    """Temperature of the contrastive loss: smaller is stricter."""
    dimension: Count = 64
    """Length of the vectors that the loss compares."""
    zoom: Range = (0.8, 1.2)
    """Side of a view in patches, drawn for each view."""
    slices: Count = 5000
    """Slices of all scans together that are segmented into superpixels before the training."""
    side: Count = 256
    """Pixels along the longer side of the grid that superpixels are cut on."""
    scale: float = 50.0
    """Felzenszwalb's scale to begin with: larger regions for larger values."""
    sigma: float = 0.8
    """Smoothing before superpixels are cut, in grid pixels."""
    min_size: Count = 50
    """With `side`, `scale` and `sigma` the parameters of the superpixels (superpixels.SuperpixelParams)."""

    def superpixel_params(self) -> SuperpixelParams:
        """Parameters of the superpixels."""
        return SuperpixelParams(self.side, self.scale, self.sigma, self.min_size)


class LRC(Method):
    """LRC pre-training: a global method, a projector of pixels and the loss of a batch."""

    Settings = LRCSettings
    TRANSFERS = ("encoder.", "decoder.")

    def __init__(self, network: Network, plan: Plan, settings: LRCSettings) -> None:
        check_positive(settings, "temperature", "slices", "side", "scale", "min_size")
        self.settings = settings
        kind = find(settings.base)
        numbers = {
            **recipes.read(f"{settings.base}-{settings.base_recipe}").method,
            **settings.base_settings,
        }
        # Built first, so that it draws the same initial weights as it would alone.
        self.base = kind(network, plan, from_json(kind.Settings, numbers, "base_settings"))
        self.modules = self.base.modules
        width = plan.channels[0]
        self.modules["local"] = nn.Sequential(
            nn.Linear(width, width), nn.ReLU(inplace=True), nn.Linear(width, settings.dimension)
        )
        self.superpixels: SuperPixels | None = None

    @property
    def plan(self) -> Plan:
        """The plan, shared with the global method."""
        return self.base.plan

    @plan.setter
    def plan(self, plan: Plan) -> None:
        self.base.plan = plan

    def prepare(self, dataset: DeviceDataset, emit: Emit) -> None:
        """Segment slices into superpixels.

        Raises:
            UserError: "not-2d", "bad-job" or "no-regions" if scans or settings leave nothing to contrast, and
                those of the global method.
        """
        self.base.prepare(dataset, emit)
        if self.settings.local_weight == 0:
            return
        _check(self.plan, self.settings)
        begin = time.monotonic()
        superpixels = segment_dataset(
            dataset, self.settings.superpixel_params(), self.settings.slices, _percents(emit)
        )
        if superpixels is None:
            raise UserError(
                "LRC contrasts regions, and no slice of the scans has two; check that the images are not "
                "empty, or choose mae.",
                code="no-regions",
            )
        self.superpixels = superpixels
        done, total = sum(map(len, superpixels.slices)), sum(map(len, dataset.images))
        emit(
            Notice(
                f"{done} of {total} slices segmented into superpixels in {time.monotonic() - begin:.0f} s, "
                f"with a median of {superpixels.median_regions:.0f} per slice."
            )
        )

    @classmethod
    def trial(cls, settings: LRCSettings, slices: int) -> tuple[dict[str, Any], float]:
        """Segment a few slices into superpixels instead of all."""
        return {"slices": TRIAL_SLICES}, min(settings.slices, slices) / TRIAL_SLICES

    def loss(
        self, dataset: DeviceDataset, generator: Generator, fraction: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The global loss of a new batch plus the local loss of another; both are logged too.

        "skipped" is the fraction of the views that the local loss leaves out.
        """
        if self.settings.local_weight == 0:
            return self.base.loss(dataset, generator, fraction)
        local_generator = branch(generator)
        global_loss, numbers = self.base.loss(dataset, generator, fraction)
        local, skipped = self.local(local_generator)
        loss = global_loss + self.settings.local_weight * local
        return loss, {**numbers, "global": global_loss.detach(), "local": local.detach(), "skipped": skipped}

    def views(self, generator: Generator) -> tuple[Tensor, Tensor]:
        """Draw a batch of views of slices that have superpixels, and cut this process's shard of it.

        Returns:
            Images (B, S, H, W) float32 and the middle slices' labels (B, H, W) int64.
        """
        dataset, slices = self._prepared().dataset, self._prepared().slices
        size = view_size(dataset, self.plan, self.settings.zoom[1])
        views = sample_anywhere(dataset, self.plan, size, generator, zoom=self.settings.zoom)
        counts = torch.tensor([len(numbers) for numbers in slices])[views.scan]
        # Row of the scan's label maps, and the number of its slice.
        row = (torch.rand(len(views), generator=generator) * counts).long()
        chosen = torch.stack([slices[scan][nth] for scan, nth in zip(views.scan, row, strict=True)])
        views = replace(views, flip=torch.rand(len(views), 3, generator=generator) < 0.5)
        rows, columns = views.centre[:, 1], views.centre[:, 2]
        in_scan = replace(views, centre=torch.stack([chosen.float(), rows, columns], 1))
        in_labels = replace(views, centre=torch.stack([row.float(), rows, columns], 1))
        own = shard(len(views))
        labels = cut_targets(dataset, own.of(in_labels), self.plan, fill_value=IGNORE)
        images = shown(cut(dataset, own.of(in_scan), self.plan))
        return change_intensity(images, PUBLISHED, generator, self.plan.n_channels, own), labels

    def local(self, generator: Generator) -> tuple[Tensor, Tensor]:
        """The local loss of a new batch of views, and the fraction of them that was left out, scalars."""
        network, settings = network_of(self.modules), self.settings
        images, labels = self.views(generator)
        n_labels = self._prepared().regions
        own = shard(self.plan.batch)
        at, valid = draw_pixels(labels, n_labels, settings.regions, settings.samples, generator, own)
        decoded = network.decode(network.encode(images)).flatten(2)
        drawn = decoded.gather(2, at.flatten(1)[:, None].expand(-1, decoded.shape[1], -1))
        vectors = self.modules["local"](drawn.transpose(1, 2)).reshape(*at.shape, -1)
        loss, used = region_contrast(vectors, valid, settings.temperature, at)
        return loss, 1 - mean(used.float())

    def after_step(self, fraction: float) -> None:
        """Update the global method."""
        self.base.after_step(fraction)

    def _prepared(self) -> SuperPixels:
        if self.superpixels is None:
            raise ValueError("call prepare before the first step")
        return self.superpixels


def branch(generator: Generator) -> Generator:
    """A generator seeded from the state of another, without changing that state.

    The local loss can then draw without affecting the global method, and a resumed training repeats it.
    """
    copy = Generator()
    copy.set_state(generator.get_state())
    return Generator().manual_seed(int(torch.randint(2**62, (), generator=copy)))


def _check(plan: Plan, settings: LRCSettings) -> None:
    if plan.dims != 2:
        raise UserError(
            f"LRC needs a 2.5D network; set dims=2 or choose {settings.base}.",
            code="not-2d",
        )
    for name in ("regions", "samples"):
        value = getattr(settings, name)
        if value < 2:
            raise UserError(
                f"{name} is {value}, which leaves LRC nothing to contrast; set it to at least 2.",
                code="bad-job",
            )


def _percents(emit: Emit) -> Callable[[float], None]:
    """A progress callback that emits at most one event per percent; there can be thousands of scans."""
    last = -1

    def report(fraction: float) -> None:
        nonlocal last
        if (percent := int(100 * fraction)) > last:
            last = percent
            emit(Progress("superpixels", fraction))

    return report
