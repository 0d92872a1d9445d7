"""Checkpoints come back exactly; what is none is said in one sentence."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from medssl.core.errors import UserError
from medssl.nn.models import checkpoint
from safetensors.torch import save_file
from torch import Tensor, nn


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "checkpoint.safetensors"


def tensors() -> dict[str, Tensor]:
    return {
        "modules.weight": torch.randn(3, 4),
        "modules.half": torch.randn(5).bfloat16(),
        "modules.count": torch.tensor(7),
        "modules.nothing": torch.zeros(0, 2),
        "generator": torch.Generator().manual_seed(3).get_state(),
    }


def test_tensors_and_card_come_back_exactly(path: Path) -> None:
    before = tensors()
    checkpoint.save(path, before, {"kind": "pretrain", "plan": {"dims": 2}, "Zürich": None})
    after, card = checkpoint.load(path)
    assert after.keys() == before.keys()
    for name, tensor in before.items():
        assert after[name].dtype == tensor.dtype
        assert torch.equal(after[name], tensor)
    assert {name: card[name] for name in ("kind", "plan", "Zürich")} == {
        "kind": "pretrain",
        "plan": {"dims": 2},
        "Zürich": None,
    }


def test_the_card_lies_beside_as_json(path: Path) -> None:
    checkpoint.save(path, tensors(), {"kind": "pretrain", "step": 5})
    assert json.loads((path.parent / "card.json").read_text())["step"] == 5


def test_tensors_that_are_strided_or_train_come_back_exactly(path: Path) -> None:
    before = {
        "turned": torch.randn(4, 6).T,
        "thinned": torch.randn(9)[::2],
        "trained": nn.Linear(2, 3).weight,
    }
    checkpoint.save(path, before, {})
    after, _ = checkpoint.load(path)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_unpack_is_the_inverse_of_pack_among_others() -> None:
    packed = {**checkpoint.pack("a", {"x.y": torch.ones(1)}), **checkpoint.pack("ab", {"z": torch.zeros(1)})}
    assert list(checkpoint.unpack("a", packed)) == ["x.y"]
    assert list(checkpoint.unpack("ab", packed)) == ["z"]


def assert_refused(path: Path, code: str) -> None:
    with pytest.raises(UserError) as caught:
        checkpoint.load(path)
    assert caught.value.code == code
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_checkpoint(path: Path) -> None:
    assert_refused(path, "no-checkpoint")


def test_a_folder_in_its_place(path: Path) -> None:
    path.mkdir()
    assert_refused(path, "no-checkpoint")


@pytest.mark.parametrize(
    "kept, code",
    [(0, "foreign"), (4, "foreign"), (100, "foreign"), (0.5, "damaged"), (-1, "damaged")],
)
def test_a_truncated_checkpoint(path: Path, kept: float, code: str) -> None:
    checkpoint.save(path, tensors(), {"kind": "pretrain"})
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole)) if 0 < kept < 1 else int(kept)])
    assert_refused(path, f"{code}-checkpoint")


def test_flipped_bits_are_refused(path: Path) -> None:
    checkpoint.save(path, tensors(), {"kind": "finetune", "classes": [{"id": 2, "name": "two"}]})
    whole, generator = path.read_bytes(), np.random.default_rng(0)
    before, card = checkpoint.load(path)
    refused = 0
    for place in generator.integers(8, len(whole), 200):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << generator.integers(8)
        path.write_bytes(damaged)
        try:
            after, known = checkpoint.load(path)
        except UserError:
            refused += 1
        else:  # the bit is in the name of the hash
            assert {**known, **card} == known
            assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert refused > 180


def test_a_checkpoint_of_a_former_version_has_no_hash_and_is_read(path: Path) -> None:
    card = json.dumps({"format": 1, "kind": "pretrain"})
    save_file(tensors(), path, metadata={"medssl": card})
    assert checkpoint.load(path)[1]["kind"] == "pretrain"


def test_the_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    own, other = (tmp_path / "runs" / name / "checkpoint.safetensors" for name in ("0001-pgl", "0002-none"))
    for path in (own, other):
        path.parent.mkdir(parents=True)
    checkpoint.save(own, tensors(), {"run": "0001-pgl"})
    assert checkpoint.load(own)[1]["run"] == "0001-pgl"
    other.write_bytes(own.read_bytes())
    with pytest.raises(UserError, match="0001-pgl") as error:
        checkpoint.load(other)
    assert error.value.code == "damaged-checkpoint"


def test_a_foreign_safetensors_file(path: Path) -> None:
    save_file({"weight": torch.zeros(3)}, path)
    assert_refused(path, "foreign-checkpoint")


@pytest.mark.parametrize("card", ["[1, 2]", "null", '{"format": "one"}', "{}", "no json"])
def test_a_safetensors_file_with_a_card_that_is_none(path: Path, card: str) -> None:
    save_file({"weight": torch.zeros(3)}, path, metadata={"medssl": card})
    assert_refused(path, "foreign-checkpoint")


def test_a_pickle(path: Path) -> None:
    torch.save({"weight": torch.zeros(3)}, path)
    assert_refused(path, "foreign-checkpoint")


def test_a_checkpoint_of_a_newer_version(path: Path) -> None:
    save_file({"weight": torch.zeros(3)}, path, metadata={"medssl": json.dumps({"format": 99})})
    assert_refused(path, "newer-version")
