"""The properties of MoCo: its loss, its queue, its teacher. Each test is named after the property."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from medssl.core.errors import UserError
from medssl.core.events import Notice
from medssl.nn.data.device_dataset import DeviceDataset
from medssl.nn.methods.moco import Centre, MoCo, MoCoSettings, Queue, info_nce, top1_accuracy
from medssl.nn.models.unet import build
from project_parts import code_of
from small import Events, dataset, noise, plan, seeded
from torch import Tensor
from torch.nn import functional as F

SCAN = (16, 48, 40)
SMALL = MoCoSettings(hidden=16, dimension=8, queue=10)


def method(dims: int = 2, settings: MoCoSettings = SMALL) -> MoCo:
    torch.manual_seed(0)
    small = plan(dims)
    return MoCo(build(small, small.patch_vox[0] if dims == 2 else 1, 0), small, settings)


def scans() -> DeviceDataset:
    return dataset(*(noise(SCAN, seed) for seed in range(3)))


def vectors(count: int = 4, channels: int = 8, seed: int = 0) -> Tensor:
    return torch.randn(count, channels, generator=seeded(seed))


def every(count: int) -> Tensor:
    return torch.ones(count, dtype=torch.bool)


def numbered(*numbers: int) -> Tensor:
    """Keys of one channel that can be told apart."""
    return torch.tensor([[float(number)] for number in numbers])


def held(queue: Queue) -> list[int]:
    return [int(key) for key, waits in zip(queue.keys[:, 0], queue.waiting(), strict=True) if waits]


def test_the_loss_is_that_of_the_equation() -> None:
    queries, keys, negatives = vectors(), vectors(seed=1), vectors(6, seed=2)
    total = 0.0
    for query, key in zip(queries, keys, strict=True):
        own = math.exp(float(F.cosine_similarity(query, key, dim=0)) / 0.2)
        others = [math.exp(float(F.cosine_similarity(query, each, dim=0)) / 0.2) for each in negatives]
        total -= math.log(own / (own + sum(others)))
    loss = info_nce(queries, keys, negatives, every(6), 0.2)
    assert loss.item() == pytest.approx(total / 4, rel=1e-5)


@pytest.mark.parametrize("length", [1, 9])
def test_all_equal_features_give_the_logarithm_of_queue_and_key(length: int) -> None:
    same = torch.ones(4, 8)
    loss = info_nce(same, same, torch.ones(length, 8), every(length), 0.2)
    assert loss.item() == pytest.approx(math.log(1 + length), abs=1e-6)


def test_equal_keys_orthogonal_to_the_queue_give_nothing_to_learn_as_temperature_falls() -> None:
    unit = torch.eye(8)
    losses = [info_nce(unit[:4], unit[:4], unit[4:], every(4), each).item() for each in (1.0, 0.2, 0.03)]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] == pytest.approx(0, abs=1e-6)


def test_scale_invariance() -> None:
    plain = info_nce(vectors(), vectors(seed=1), vectors(6, seed=2), every(6), 0.2)
    scaled = info_nce(9 * vectors(), 0.01 * vectors(seed=1), 5 * vectors(6, seed=2), every(6), 0.2)
    assert torch.allclose(plain, scaled)


def test_the_order_of_pairs_and_of_the_queue_does_not_matter() -> None:
    queries, keys, negatives = vectors(), vectors(seed=1), vectors(6, seed=2)
    plain = info_nce(queries, keys, negatives, every(6), 0.2)
    other = info_nce(queries.flip(0), keys.flip(0), negatives.roll(2, 0), every(6), 0.2)
    assert torch.allclose(plain, other)


def test_empty_places_of_the_queue_do_not_count() -> None:
    queries, keys, negatives = vectors(), vectors(seed=1), vectors(6, seed=2)
    part = info_nce(queries, keys, negatives, torch.arange(6) < 4, 0.2)
    assert torch.allclose(part, info_nce(queries, keys, negatives[:4], every(4), 0.2))


def test_an_empty_queue_gives_no_loss_and_no_gradient() -> None:
    queries = vectors().requires_grad_()
    loss = info_nce(queries, vectors(seed=1), torch.zeros(6, 8), ~every(6), 0.2)
    loss.backward()
    assert loss == 0
    assert queries.grad is not None
    assert (queries.grad == 0).all()


def test_the_key_is_pulled_as_hard_as_the_whole_queue_is_pushed() -> None:
    """The gradient to the cosines: negative for the key, positive for each negative, of sum 0."""
    query = F.normalize(vectors(1))
    key, negatives = (F.normalize(vectors(n, seed=n)).requires_grad_() for n in (1, 6))
    info_nce(query, key, negatives, every(6), 0.2).backward()
    assert key.grad is not None
    assert negatives.grad is not None
    # Along the query a unit vector's cosine grows by 1 - cos^2.
    pull, push = ((each.grad @ query[0]) / (1 - (each @ query[0]).square()) for each in (key, negatives))
    assert pull < 0
    assert (push > 0).all()
    assert push.sum().item() == pytest.approx(-pull.item(), rel=1e-4)


def test_the_gradient_is_orthogonal_to_the_unnormalised_queries() -> None:
    queries = vectors().requires_grad_()
    info_nce(queries, vectors(seed=1), vectors(6, seed=2), every(6), 0.2).backward()
    assert queries.grad is not None
    assert queries.grad.abs().max() > 1e-3
    assert (queries.grad * queries).sum(1).abs().max() < 1e-6


def test_found_is_the_share_of_queries_nearer_to_their_key_than_to_others_of_the_batch() -> None:
    unit = torch.eye(4)
    assert top1_accuracy(unit, unit) == 1
    assert top1_accuracy(unit, unit.roll(1, 0)) == 0
    assert top1_accuracy(unit, torch.stack([unit[0], unit[1], unit[2], unit[0] + unit[1]])) == 0.75
    assert top1_accuracy(3 * unit, 0.1 * unit) == 1


def test_similarities_are_fp32_in_mixed_precision() -> None:
    """In bf16 all of these cosines would be 1."""
    near = [torch.ones(4, 8) + 1e-3 * vectors(seed=seed) for seed in range(3)]
    with torch.autocast("cpu", torch.bfloat16):
        loss = info_nce(*near, every(4), 1e-5)
        moco = method()
        moco.loss(scans(), seeded(), 0.0)
        moco.after_step(0.0)
        whole, _ = moco.loss(scans(), seeded(1), 0.0)
    assert loss.dtype == whole.dtype == moco.modules["queue"].keys.dtype == torch.float32
    assert torch.equal(loss, info_nce(*near, every(4), 1e-5))
    assert loss.item() != pytest.approx(math.log(5), abs=1e-3)
    assert whole.isfinite()


def test_the_queue_starts_empty_and_fills_in_order() -> None:
    queue = Queue(5, 1)
    assert held(queue) == []
    queue.put(numbered(1, 2))
    queue.put(numbered(3))
    assert held(queue) == [1, 2, 3]


def test_the_oldest_keys_are_replaced_first_where_batches_do_not_divide_the_queue() -> None:
    queue = Queue(5, 1)
    for first in range(1, 13, 3):
        queue.put(numbered(first, first + 1, first + 2))
        assert sorted(held(queue)) == list(range(max(1, first - 2), first + 3))
    assert queue.keys[:, 0].tolist() == [11, 12, 8, 9, 10]


def test_batches_of_changing_length_keep_the_order() -> None:
    queue, come = Queue(7, 1), 0
    for length in (4, 4, 2, 1, 5, 3):
        queue.put(numbered(*range(come, come + length)))
        come += length
        assert sorted(held(queue)) == list(range(max(0, come - 7), come))


@pytest.mark.parametrize("length", [5, 6, 13])
def test_of_more_keys_than_places_the_latest_stay(length: int) -> None:
    queue = Queue(5, 1)
    queue.put(numbered(100, 101))
    queue.put(numbered(*range(length)))
    assert sorted(held(queue)) == list(range(length - 5, length))
    queue.put(numbered(50))
    assert sorted(held(queue)) == [*range(length - 4, length), 50]


@pytest.mark.parametrize("dims", [2, 3])
def test_keys_of_a_batch_queue_up_after_its_step_and_not_before(dims: int) -> None:
    moco, pairs = method(dims), seeded()
    queue = moco.modules["queue"]
    moco.loss(scans(), pairs, 0.0)
    moco.after_step(0.0)
    before = queue.keys.clone()
    moco.loss(scans(), pairs, 0.0)[0].backward()
    keys = moco.keys
    assert keys is not None
    assert torch.equal(queue.keys, before)
    assert (keys @ before[:4].T).max() < 1 - 1e-6
    moco.after_step(0.0)
    assert torch.equal(queue.keys[4:8], keys)
    assert queue.keys[:8].norm(dim=1).sub(1).abs().max() < 1e-5


def test_the_first_batch_has_no_negatives_and_the_second_those_of_the_first() -> None:
    moco, pairs = method(), seeded()
    assert moco.loss(scans(), pairs, 0.0)[0] == 0
    moco.after_step(0.0)
    loss, _ = moco.loss(scans(), pairs, 0.0)
    assert 0 < loss < math.log(1 + 4) + 2 / 0.2


def test_a_step_that_failed_leaves_no_keys() -> None:
    moco, pairs = method(), seeded()
    moco.loss(scans(), pairs, 0.0)  # memory runs out here
    moco.plan = replace(moco.plan, batch=2)
    moco.loss(scans(), pairs, 0.0)
    keys = moco.keys
    moco.after_step(0.0)
    queue = moco.modules["queue"]
    assert keys is not None
    assert queue.count == 2
    assert torch.equal(queue.keys[:2], keys)


def test_a_halved_batch_goes_on_with_the_same_queue_down_to_one_pair() -> None:
    moco, pairs, come = method(settings=replace(SMALL, queue=7)), seeded(), 0
    for batch in (4, 4, 2, 1, 1):
        moco.plan = replace(moco.plan, batch=batch)
        loss, numbers = moco.loss(scans(), pairs, 0.0)
        loss.backward()
        moco.after_step(0.0)
        come += batch
        assert loss.isfinite()
        assert numbers["feature_std"].isfinite()
        assert moco.modules["queue"].waiting().sum() == min(7, come)


def test_a_training_can_start_with_one_pair_a_batch() -> None:
    moco, pairs = method(), seeded()
    moco.plan = replace(moco.plan, batch=1)
    moco.prepare(scans(), Events())
    for _ in range(3):
        loss, numbers = moco.loss(scans(), pairs, 0.0)
        loss.backward()
        moco.after_step(0.0)
        assert loss.isfinite()
        assert numbers["feature_std"].isfinite()


def test_what_all_keys_have_in_common_is_taken_off_and_so_is_most_of_a_drift() -> None:
    """Keys could be told from older ones by it."""
    centre = Centre(2)
    for drift in range(200):
        centred = centre(torch.tensor([[1.0, drift], [3.0, drift]]))
    assert centred[:, 0].tolist() == pytest.approx([-1, 1])
    assert centred[:, 1].tolist() == pytest.approx([9, 9], abs=1e-3)  # ten batches' worth, not two hundred


def test_the_centre_is_the_mean_of_all_batches_at_first() -> None:
    centre = Centre(1)
    centre(torch.tensor([[1.0], [3.0]]))
    assert centre.mean.item() == 2
    assert centre(torch.tensor([[8.0]])).item() == pytest.approx(3)
    assert centre.mean.item() == pytest.approx(5)


def test_the_centre_is_fp32_and_lets_gradients_through_as_they_are() -> None:
    centre, projected = Centre(3), vectors(4, 3).bfloat16().requires_grad_()
    centred = centre(projected)
    centred.sum().backward()
    assert centred.dtype == torch.float32
    assert projected.grad is not None
    assert (projected.grad == 1).all()
    assert not centre.mean.requires_grad


def test_the_queue_is_saved_and_restored_with_the_weights() -> None:
    moco, pairs = method(), seeded()
    for _ in range(3):
        moco.loss(scans(), pairs, 0.0)
        moco.after_step(0.0)
    state = copy.deepcopy(moco.modules.state_dict())
    restored = method()
    restored.modules.load_state_dict(state)
    assert restored.modules["queue"].count == 12
    losses = [each.loss(scans(), seeded(9), 0.0)[0] for each in (moco, restored)]
    assert torch.equal(losses[0], losses[1])
    assert not torch.equal(losses[0], method().loss(scans(), seeded(9), 0.0)[0])


@pytest.mark.parametrize("dims", [2, 3])
def test_no_gradient_reaches_teacher_queue_or_decoder(dims: int) -> None:
    moco, pairs = method(dims), seeded()
    moco.loss(scans(), pairs, 0.0)
    moco.after_step(0.0)
    moco.loss(scans(), pairs, 0.0)[0].backward()
    network = moco.modules["network"]
    for untouched in (moco.modules["teacher"], network.decoder, network.head):
        assert all(each.grad is None for each in untouched.parameters())
    assert not moco.modules["queue"].keys.requires_grad
    assert not list(moco.modules["queue"].parameters())
    trained = [*network.encoder.parameters(), *moco.modules["projector"].parameters()]
    assert all(each.grad is not None and each.grad.isfinite().all() for each in trained)
    assert network.encoder[0].conv1.conv.weight.grad.abs().sum() > 0


def test_the_teacher_starts_as_an_exact_copy_and_not_as_the_same_tensors() -> None:
    moco = method()
    teacher, network = moco.modules["teacher"], moco.modules["network"]
    for part, student in (("encoder", network.encoder), ("projector", moco.modules["projector"])):
        own, other = teacher[part].state_dict(), student.state_dict()
        assert own.keys() == other.keys()
        assert all(torch.equal(own[name], other[name]) for name in own)
        assert all(own[name].data_ptr() != other[name].data_ptr() for name in own)


@pytest.mark.parametrize("fraction", [0.0, 0.7, 1.0])
def test_the_teacher_follows_by_the_same_momentum_throughout(fraction: float) -> None:
    moco = method(settings=replace(SMALL, momentum=0.9))
    pairs = [
        (moco.modules["teacher"]["encoder"], moco.modules["network"].encoder),
        (moco.modules["teacher"]["projector"], moco.modules["projector"]),
    ]
    before = [[each.clone() for each in teacher.parameters()] for teacher, _ in pairs]
    for parameter in moco.modules.parameters():
        if parameter.requires_grad:
            parameter.data.add_(1)
    moco.after_step(fraction)
    for (teacher, student), old in zip(pairs, before, strict=True):
        for moved, was, aim in zip(teacher.parameters(), old, student.parameters(), strict=True):
            assert torch.allclose(moved, 0.9 * was + 0.1 * aim, rtol=0, atol=1e-6)


def test_for_as_many_steps_as_it_says_the_loss_has_more_and_more_to_tell_from() -> None:
    moco, pairs, events = method(), seeded(), Events()
    moco.prepare(scans(), events)
    (said,) = events.of(Notice)
    steps = math.ceil(SMALL.queue / moco.plan.batch)
    assert f" {steps} steps" in said.text
    for step in range(steps + 1):
        loss, _ = moco.loss(scans(), pairs, 0.0)
        assert (loss == 0) == (step == 0)
        moco.after_step(0.0)
        assert bool(moco.modules["queue"].waiting().all()) == (step >= steps - 1)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("image", [torch.full(SCAN, 0.7), noise((3, 9, 7))], ids=["constant", "tiny"])
def test_constant_and_tiny_scans_give_a_finite_loss_and_finite_gradients(dims: int, image: Tensor) -> None:
    moco, pairs = method(dims), seeded()
    for _ in range(2):
        loss, numbers = moco.loss(dataset(image), pairs, 0.0)
        loss.backward()
        moco.after_step(0.0)
        assert loss.isfinite()
        assert all(value.isfinite() for value in numbers.values())
    assert all(each.grad.isfinite().all() for each in moco.modules.parameters() if each.grad is not None)


def test_a_single_slice_is_refused_before_the_start() -> None:
    with pytest.raises(UserError) as error:
        method().prepare(dataset(noise((1, 48, 40))), Events())
    assert code_of(error) == "one-place"


@pytest.mark.parametrize("wrong", [{"queue": 0}, {"queue": -3}, {"temperature": 0.0}])
def test_no_queue_and_no_temperature_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UserError) as error:
        method(settings=replace(SMALL, **wrong))  # type: ignore[arg-type]
    assert code_of(error) == "bad-job"


def test_the_pairs_of_a_batch_come_from_different_scans_while_there_are_some() -> None:
    first, _ = method().views(dataset(*(noise((6, 40, 40), seed) for seed in range(4))), seeded())
    assert sorted(first.scan.tolist()) == [0, 1, 2, 3]


def test_training_tells_a_batch_from_the_one_before() -> None:
    moco, pairs = method(), seeded()
    moco.loss(scans(), pairs, 0.0)
    moco.after_step(0.0)
    pair = moco.views(scans(), pairs)
    optimizer = torch.optim.AdamW([each for each in moco.modules.parameters() if each.requires_grad], lr=1e-2)
    losses = []
    for _ in range(15):
        loss, numbers = moco.compare(*pair)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]  # the keys stay where the untrained teacher put them
    assert numbers["feature_std"] > 0.3
