"""A bundle's weights: changed, cut off, pickled or of another network, they are refused before they are used."""

import pickle
from contextlib import suppress

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from teacher_server.teachers.bundle import (
    Bundle,
    BundleError,
    load_bundle,
    load_network,
)
from tests.teacher_server.teachers.bundle_edits import edit, refusal, replace_weights, tensors


def test_missing_weights_are_named(bundle: Bundle) -> None:
    bundle.weights_path.unlink()
    assert f"{bundle.weights_path}: not a file, but weights.file" in refusal(bundle.folder)
    bundle.weights_path.mkdir()
    assert f"{bundle.weights_path}: not a file, but weights.file" in refusal(bundle.folder)


def test_one_changed_bit_is_noticed_before_the_weights_are_parsed(bundle: Bundle) -> None:
    content = bytearray(bundle.weights_path.read_bytes())
    content[-1] ^= 1
    bundle.weights_path.write_bytes(content)
    with pytest.raises(BundleError, match=r"has SHA-256 [0-9a-f]{64}, but weights.sha256 in teacher.toml is"):
        load_bundle(bundle.folder)


def test_weights_exchanged_after_the_check_are_noticed(bundle: Bundle) -> None:
    loaded = load_bundle(bundle.folder)
    bundle.weights_path.write_bytes(safetensors.torch.save({"conv1.weight": torch.zeros(1)}))
    with pytest.raises(BundleError, match="has SHA-256"):
        load_network(loaded)


@pytest.mark.parametrize("kept", [0, 4, 100, -1])
def test_truncated_weights_are_refused(bundle: Bundle, kept: int) -> None:
    replace_weights(bundle, bundle.weights_path.read_bytes()[:kept])
    assert f"{bundle.weights_path}: weights: not a whole safetensors file" in refusal(bundle.folder)


class Bomb:
    exploded = False

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return (setattr, (Bomb, "exploded", True))


def test_pickled_weights_are_never_unpickled(bundle: Bundle) -> None:
    replace_weights(bundle, pickle.dumps({"conv1.weight": Bomb()}))
    assert "not a whole safetensors file" in refusal(bundle.folder)
    assert not Bomb.exploded


def test_missing_and_unexpected_tensors_are_named(bundle: Bundle) -> None:
    changed = tensors(bundle)
    changed["extra.weight"] = changed.pop("dense1.bias")
    replace_weights(bundle, safetensors.torch.save(changed))
    text = refusal(bundle.folder)
    assert "does not fit network.name lenet5-half with 10 classes" in text
    assert "dense1.bias is missing" in text
    assert "extra.weight is not a tensor of the network" in text


@pytest.mark.parametrize(
    ("tensor", "reason"),
    [
        (torch.zeros(121), r"dense1.bias is torch.float32 (121,), allowed is torch.float32 (120,)"),
        (torch.zeros(120, 1), "(120, 1), allowed is"),
        (torch.zeros(120, dtype=torch.float16), "torch.float16 (120,), allowed is torch.float32"),
        (torch.full((120,), float("nan")), "dense1.bias holds NaN or infinite values"),
        (torch.full((120,), float("-inf")), "dense1.bias holds NaN or infinite values"),
    ],
)
def test_unfit_tensors_are_named(bundle: Bundle, tensor: torch.Tensor, reason: str) -> None:
    replace_weights(bundle, safetensors.torch.save(tensors(bundle) | {"dense1.bias": tensor}))
    text = refusal(bundle.folder)
    assert str(bundle.weights_path) in text
    assert reason in text


def test_the_number_of_classes_is_the_networks(bundle: Bundle) -> None:
    edit(bundle, "classes", [f"class {index}" for index in range(9)])
    text = refusal(bundle.folder)
    assert "lenet5-half with 9 classes" in text
    assert "logits.weight is torch.float32 (10, 84), allowed is torch.float32 (9, 84)" in text


def test_weights_of_another_network_are_refused(bundle: Bundle) -> None:
    edit(bundle, "network.name", "lenet5")
    assert "conv1.weight is torch.float32 (3, 1, 5, 5), allowed is torch.float32 (6, 1, 5, 5)" in refusal(
        bundle.folder
    )


@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)  # restored after each
@given(st.data())
def test_a_damaged_manifest_is_refused_or_sound(bundle: Bundle, data: st.DataObject) -> None:
    path = bundle.folder / "teacher.toml"
    sound = path.read_bytes()
    content = bytearray(sound)
    for position in data.draw(st.lists(st.integers(0, len(sound) - 1), min_size=1, max_size=3)):
        content[position] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        with suppress(BundleError):
            load_network(load_bundle(bundle.folder))
    finally:
        path.write_bytes(sound)
