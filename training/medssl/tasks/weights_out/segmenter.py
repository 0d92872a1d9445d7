"""Transforms and inferer of a MONAI bundle: they give the segmentations that medssl gives.

A MONAI bundle gets a copy of this module, which therefore imports nothing of this package but other modules
of which it gets copies. It works on whole scans in memory, where medssl works in parts
(inference/scores.py has the same steps, and the reasons for them).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.inferers import Inferer, sliding_window_inference
from monai.transforms import MapTransform
from monai.utils import convert_to_dst_type
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from medssl.core.io.intensity import normalise
from medssl.tasks.inference.location_prior import LocationPrior
from medssl.tasks.inference.posterior_smoothing import smooth_posteriors
from medssl.tasks.inference.threshold import DiceOptimalLabels

PIXELS_AT_ONCE = 1 << 18
"""Pixels per batch of slices."""


def load_weights(network: nn.Module, path: str) -> None:
    """Load weights that are stored once each; DynUNet has its blocks under a second name, too."""
    state = load_file(path)
    missing, unexpected = network.load_state_dict(state, strict=False)
    if unexpected or not all(name.startswith("skip_layers.") for name in missing):
        raise ValueError(f"{path} holds the weights of another network.")


class Normalised(MapTransform):
    """Grey values as the network knows them.

    Images are (C, X, Y, Z) and grow towards right, anterior, superior.

    Args:
        keys: Keys of the images.
        modalities: The modality of each channel: "ct", or another one.
    """

    def __init__(self, keys: Any, modalities: Sequence[str]) -> None:
        super().__init__(keys)
        self.modalities = tuple(modalities)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Normalise the images of an item."""
        new = dict(data)
        for key in self.key_iterator(new):
            image = new[key]
            channels = [
                normalise(channel.T, modality).T
                for channel, modality in zip(np.asarray(image), self.modalities, strict=True)
            ]
            stored = np.stack(channels).astype(np.float16).astype(np.float32)  # as a project has it
            new[key] = convert_to_dst_type(stored, dst=image, dtype=torch.float32)[0]
        return new


class ScanInferer(Inferer):
    """Class probabilities of a whole scan by a network of slices or of windows.

    "Work order" is (Z, Y, X) with the axis across slices moved to the front: (slice, row, column).

    Args:
        dimensions: 2 for a network that takes neighbouring slices as channels, or 3.
        work_axes: Axes of (Z, Y, X) in work order.
        spacing_mm: Spacing of the network's grid in work order; 0 for an axis that is not resampled.
        patch_vox: Size of a window in work order; with 2 dimensions the first is the number of slices.
        strides: Sides of the input are padded to multiples of these, to two of them at least.
        margin_vox: Border voxels that are replicated around a slice.
        overlap: Fraction of a window that the next one covers again.
        orders: Permutations of the work order in which the network sees the scan.
        max_anisotropy: Largest ratio of a voxel's edges for which all orders are used, not the first alone.
        sigma_mm: Standard deviation of the smoothing among classes.
    """

    def __init__(
        self,
        dimensions: int,
        work_axes: Sequence[int],
        spacing_mm: Sequence[float],
        patch_vox: Sequence[int],
        strides: Sequence[int],
        margin_vox: int,
        overlap: float,
        orders: Sequence[Sequence[int]],
        max_anisotropy: float,
        sigma_mm: float,
    ) -> None:
        self.dimensions, self.work_axes, self.spacing_mm = dimensions, tuple(work_axes), tuple(spacing_mm)
        self.patch_vox, self.strides, self.margin, self.overlap = patch_vox, strides, margin_vox, overlap
        self.orders, self.max_anisotropy, self.sigma_mm = orders, max_anisotropy, sigma_mm

    @torch.inference_mode()
    def __call__(self, inputs: Tensor, network: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Compute probabilities.

        Args:
            inputs: A normalised scan, MetaTensor (1, C, X, Y, Z).
            network: Maps images (B, C S, H, W) or (B, C, D, H, W) to logits.
            args: Not used.
            kwargs: Not used.

        Returns:
            Probabilities (1, 1 + K, X, Y, Z).
        """
        spacing = work_spacing(inputs, self.work_axes)
        scan = to_work_order(torch.as_tensor(inputs).as_subclass(Tensor)[0], self.work_axes)
        isotropic = self.dimensions == 2 and max(spacing) <= self.max_anisotropy * min(spacing)
        orders = self.orders if isotropic else self.orders[:1]
        scores = torch.zeros(())
        for order in orders:
            there, back = (
                [0, *(1 + axis for axis in order)],
                [0, *(1 + order.index(axis) for axis in range(3))],
            )
            steps = [spacing[axis] for axis in order]
            oriented = self._slices if self.dimensions == 2 else self._windows
            scores = scores + oriented(network, scan.permute(there), steps).permute(back)
        scores = smooth_posteriors((scores / len(orders)).movedim(1, 0), self.sigma_mm, spacing)
        return from_work_order(scores.movedim(0, 1), self.work_axes)[None]

    def _slices(self, network: nn.Module, scan: Tensor, spacing: Sequence[float]) -> Tensor:
        """Probabilities (1 + K, slices, rows, columns) of a scan (C, slices, rows, columns)."""
        count, context = scan.shape[1], self.patch_vox[0]
        size = self._size(scan.shape[2:], spacing[1:], self.spacing_mm[1:])
        index = (torch.arange(count)[:, None] + torch.arange(context) - context // 2).clamp(0, count - 1)
        batches = []
        for numbers in index.split(max(1, PIXELS_AT_ONCE // (size[0] * size[1]))):
            image = scan[:, numbers.to(scan.device)].transpose(0, 1).flatten(1, 2)
            if size != tuple(image.shape[2:]):
                image = F.interpolate(image, size, mode="bilinear", antialias=True)
            scores = self._probabilities(network, F.pad(image, (self.margin,) * 4, mode="replicate"))
            batches.append(scores[..., self.margin : -self.margin, self.margin : -self.margin])
        scores = torch.cat(batches)
        weight = math.exp(-0.5 / (0.7 * min(spacing[1:]) / spacing[0]) ** 2)
        around = torch.cat([scores[:1], scores, scores[-1:]])
        scores = (scores + weight * (around[:-2] + around[2:])) / (1 + 2 * weight)
        if size != tuple(scan.shape[2:]):
            scores = F.interpolate(scores, tuple(scan.shape[2:]), mode="bilinear")
        return scores.movedim(1, 0)

    def _windows(self, network: nn.Module, scan: Tensor, spacing: Sequence[float]) -> Tensor:
        """Probabilities (1 + K, slices, rows, columns) of a scan (C, slices, rows, columns)."""
        size = self._size(scan.shape[1:], spacing, self.spacing_mm)
        image = F.interpolate(scan[None], size, mode="trilinear")
        scores = sliding_window_inference(
            image,
            tuple(self.patch_vox),
            1,
            lambda windows: self._probabilities(network, windows),
            overlap=self.overlap,
            mode="gaussian",
            padding_mode="replicate",
        )
        return F.interpolate(torch.as_tensor(scores), tuple(scan.shape[1:]), mode="trilinear")[0]

    def _probabilities(self, network: nn.Module, image: Tensor) -> Tensor:
        """Probabilities of images (B, C, ...) of any size."""
        size = tuple(image.shape[2:])
        padding: list[int] = []
        for length, stride in zip(reversed(size), reversed(self.strides), strict=True):
            padding += [0, max(-(-length // stride), 2) * stride - length]
        inside: Any = (..., *(slice(0, length) for length in size))
        probabilities: Tensor = network(F.pad(image, padding, mode="replicate"))[inside].float().softmax(1)
        return probabilities

    @staticmethod
    def _size(shape: Sequence[int], spacing: Sequence[float], wanted: Sequence[float]) -> tuple[int, ...]:
        """Size on the network's grid; spacings that differ by less than 5 % are not resampled."""
        return tuple(
            length if not target or abs(step / target - 1) < 0.05 else max(1, round(length * step / target))
            for length, step, target in zip(shape, spacing, wanted, strict=True)
        )


class Decided(MapTransform):
    """Class ids (1, X, Y, Z) from probabilities (1 + K, X, Y, Z), with the highest expected Dice.

    Args:
        keys: Keys of the probabilities.
        image_key: Key of the image, which has the spacing.
        work_axes: Axes of (Z, Y, X) in work order.
        ids: Class id of each channel, 0 for the background first.
        location_prior: File with the relative positions of the classes; None for none.
    """

    def __init__(
        self,
        keys: Any,
        image_key: str,
        work_axes: Sequence[int],
        ids: Sequence[int],
        location_prior: str | None = None,
    ) -> None:
        super().__init__(keys)
        self.image_key, self.work_axes, self.ids = image_key, tuple(work_axes), torch.tensor(ids)
        self.prior = LocationPrior(**load_file(location_prior)) if location_prior else None

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Decide the labels of an item."""
        new = dict(data)
        image = new[self.image_key]
        for key in self.key_iterator(new):
            scores = to_work_order(torch.as_tensor(new[key]).as_subclass(Tensor).cpu(), self.work_axes)
            decision = DiceOptimalLabels(scores.shape[1])
            decision.add(scores.movedim(1, 0))
            if self.prior is not None:
                decision.apply_prior(self.prior, work_spacing(image, self.work_axes))
            labels = from_work_order(self.ids[decision.labels().long()][None], self.work_axes)
            new[key] = convert_to_dst_type(labels, dst=image, dtype=torch.uint8, device="cpu")[0]
        return new


def work_spacing(image: Any, work_axes: Sequence[int]) -> list[float]:
    """Spacing of a MetaTensor in mm in work order.

    Args:
        image: MetaTensor (C, X, Y, Z), or a batch of one.
        work_axes: Axes of (Z, Y, X) in work order.
    """
    affine = torch.as_tensor(image.affine).as_subclass(Tensor).reshape(-1, 4, 4)[0].cpu().double()
    xyz = affine[:3, :3].norm(dim=0).tolist()
    return [xyz[2 - axis] for axis in work_axes]


def to_work_order(volume: Tensor, work_axes: Sequence[int]) -> Tensor:
    """A volume (C, X, Y, Z) in work order.

    Args:
        volume: The volume.
        work_axes: Axes of (Z, Y, X) in work order.

    Returns:
        The volume (C, slices, rows, columns), without a copy.
    """
    return volume.permute(0, *(3 - axis for axis in work_axes))


def from_work_order(volume: Tensor, work_axes: Sequence[int]) -> Tensor:
    """A volume (C, slices, rows, columns) as (C, X, Y, Z), the inverse of `to_work_order`.

    Args:
        volume: The volume.
        work_axes: Axes of (Z, Y, X) in work order.
    """
    return volume.permute(0, *(1 + list(work_axes).index(2 - axis) for axis in range(3))).contiguous()
