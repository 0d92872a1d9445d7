"""Meanings of the scalars that trainings log (events.Metric)."""

from __future__ import annotations

MEANINGS = {
    "loss": "training loss; should fall and then flatten",
    "dice": "Dice on the validation slice, 0 to 1",
    "interpolated": "loss on labels interpolated between complete slices",
    "pseudo_labels": "loss on pseudo-labels",
    "contrast": "loss of the contrast between classes",
    "encoder_std": "standard deviation of the encoder's features; 0 is a collapse",
    "rank": "effective number of independent features; 1 is a collapse",
    "probe": "balanced accuracy of a linear classifier on annotated slices, 0 to 1",
    "feature_std": "standard deviation of the compared features; 0 is a collapse",
    "within_slice_std": "standard deviation of the compared features within a slice",
    "top1_accuracy": "fraction of views that are closest to the other view of their pair",
    "global": "loss of whole views",
    "local": "loss of parts of views",
    "skipped": "fraction of views that the local loss leaves out",
    "reconstruction": "loss of the reconstruction of masked voxels",
    "consistency": "loss of the agreement between two views",
    "matching": "loss of the matcher",
    "accepted": "fraction of crop pairs that were matched in another scan",
    "inter": "loss between two scans",
    "intra": "loss between the cells of a view",
    "perplexity": "effective number of prototypes in use",
    "fine": "loss on the finest map",
    "right": "fraction of pixels that get the right label, on the finest map",
    "right_coarse": "fraction of pixels that get the right label, on an encoder level",
}
"""{name: what it is}; methods of other packages may log others."""
