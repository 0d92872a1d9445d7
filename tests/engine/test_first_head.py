"""The head before the first step: a logistic regression on the features of painted voxels."""

from __future__ import annotations

import pytest
import torch
from medssl.tasks.segment.annotated_crops import partial_loss
from medssl.tasks.segment.first_head import fit_head, logistic
from small import seeded
from tuning import tuning


def clouds(count: int = 300) -> tuple[torch.Tensor, torch.Tensor]:
    """Three clouds of points that a linear classifier can tell apart, on very different scales."""
    labels = torch.arange(count) % 3
    centres = torch.tensor([[0.0, 0.0], [4.0, 0.0], [0.0, 400.0]])
    noise = torch.randn(count, 2, generator=seeded()) * torch.tensor([0.5, 50.0])
    return centres[labels] + noise, labels


def test_separable_classes_are_separated_whatever_the_scale_of_the_features() -> None:
    features, labels = clouds()
    weight, bias = logistic(features, labels, 3)
    predicted = (features.double() @ weight.T + bias).argmax(1)
    assert (predicted == labels).float().mean() > 0.98


def test_a_shift_of_the_features_changes_no_answer() -> None:
    features, labels = clouds()
    one = logistic(features, labels, 3)
    two = logistic(features + torch.tensor([10.0, -3.0]), labels, 3)
    scores = [
        x.double() @ weight.T + bias
        for x, (weight, bias) in ((features, one), (features + torch.tensor([10.0, -3.0]), two))
    ]
    assert torch.allclose(scores[0].softmax(1), scores[1].softmax(1), atol=1e-3)


def test_a_class_that_was_not_painted_is_never_the_answer() -> None:
    features, labels = clouds()
    keep = labels != 2
    weight, bias = logistic(features[keep], labels[keep], 3)
    assert ((features[keep].double() @ weight.T + bias).argmax(1) != 2).all()


def test_a_feature_that_never_varies_is_no_trouble() -> None:
    features, labels = clouds()
    weight, bias = logistic(torch.cat([features, torch.ones(len(features), 1)], 1), labels, 3)
    assert weight.isfinite().all() and bias.isfinite().all()


def test_the_head_lowers_the_loss_and_leaves_the_rest_of_the_network_alone() -> None:
    task = tuning("none")
    before = {name: each.clone() for name, each in task.network.state_dict().items()}
    image, target = task.patches(task.dataset, task.voxels, seeded(1))
    loss = partial_loss(task.network(image), target).item()
    task.fit_head(seeded())
    assert partial_loss(task.network(image), target).item() < 0.8 * loss
    for name, tensor in task.network.state_dict().items():
        assert name.startswith("head.") or torch.equal(tensor, before[name])


def test_the_average_begins_with_the_fitted_head() -> None:
    task = tuning("none")
    task.fit_head(seeded())
    for one, two in zip(task.network.parameters(), task.average.parameters(), strict=True):
        assert torch.equal(one, two)


def test_the_same_generator_gives_the_same_head() -> None:
    heads = []
    for _ in range(2):
        task = tuning("none")
        task.fit_head(seeded())
        heads.append(task.network.head.conv.conv.weight)
    assert torch.equal(*heads)


@pytest.mark.parametrize("unknown", [255])
def test_without_annotated_voxels_the_head_stays(unknown: int) -> None:
    task = tuning("none")
    head = task.network.head.conv.conv.weight.clone()

    def draw(generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.randn(8, 3, 16, 16, generator=generator), torch.full((8, 16, 16), unknown)

    fit_head(task.network, task.plan, draw, seeded())
    assert torch.equal(head, task.network.head.conv.conv.weight)


def test_without_any_telling_feature_classes_are_as_probable_as_they_are_frequent() -> None:
    labels = torch.arange(100) // 90
    weight, bias = logistic(torch.zeros(100, 2), labels, 2)
    assert bias.softmax(0).tolist() == pytest.approx([0.9, 0.1], abs=1e-3)
    assert weight.abs().max() < 1e-6
