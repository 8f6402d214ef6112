"""Bundles: what is sound loads, every fault of a manifest is named."""

from pathlib import Path
from typing import Any

import pytest
import torch

from teacher_server.teachers.bundle import (
    Bundle,
    choose_device,
    load_bundle,
    load_network,
)
from tests.teacher_server.teachers.bundle_edits import ABSENT, edit, refusal, tensors

COMMITTED = Path(__file__).parents[3] / "bundles" / "fashion-mnist-lenet5"


def test_a_sound_bundle_loads(bundle: Bundle) -> None:
    loaded = load_bundle(bundle.folder)
    network = load_network(loaded)

    assert loaded == bundle
    assert not network.training
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, tensors(bundle)[name])


def test_the_committed_teacher_loads() -> None:
    manifest = load_bundle(COMMITTED).manifest
    network = load_network(load_bundle(COMMITTED))

    assert sum(parameter.numel() for parameter in network.parameters()) == 82_826
    assert manifest.measured is not None
    assert manifest.measured.test_accuracy >= 0.9
    assert manifest.measured.test_images == 10_000
    assert len(manifest.classes) == 10


def test_the_training_table_may_be_absent(bundle: Bundle) -> None:
    assert load_bundle(bundle.folder).manifest.training is None
    edit(bundle, "training", {})
    assert "training.command: Field required" in refusal(bundle.folder)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    assert refusal(tmp_path / "nowhere").startswith(
        f"{tmp_path / 'nowhere' / 'teacher.toml'}: cannot be read (No such"
    )


@pytest.mark.parametrize("content", [b"name = ", b"\xff\xfe", b"\x93NUMPY", b"a = 1\na = 2", b"x = " + b"[" * 5000])
def test_a_manifest_that_is_not_toml_is_named(bundle: Bundle, content: bytes) -> None:
    (bundle.folder / "teacher.toml").write_bytes(content)
    assert "teacher.toml: not a TOML file" in refusal(bundle.folder)


@pytest.mark.parametrize(
    "field",
    [
        "name",
        "version",
        "classes",
        "input",
        "input.height",
        "input.width",
        "input.channels",
        "input.mean",
        "input.std",
        "network.name",
        "weights",
        "weights.file",
        "weights.sha256",
        "measured.test_accuracy",
        "measured.test_dataset",
        "measured.test_images",
    ],
)
def test_every_field_is_needed(bundle: Bundle, field: str) -> None:
    edit(bundle, field, ABSENT)
    text = refusal(bundle.folder)
    assert str(bundle.folder / "teacher.toml") in text
    assert f"{field}: Field required" in text


@pytest.mark.parametrize("field", ["acuracy", "input.heigth", "weights.sha512", "measured.accuracy"])
def test_a_misspelt_field_is_named(bundle: Bundle, field: str) -> None:
    edit(bundle, field, 1)
    assert f"{field}: Extra inputs are not permitted (given: 1)" in refusal(bundle.folder)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "Has Capitals"),
        ("name", ""),
        ("name", "a" * 65),
        ("name", "name\n"),
        ("name", "../up"),
        ("name", 7),
        ("version", ""),
        ("version", "1\n2"),
        ("version", 1),
        ("classes", ["only one"]),
        ("classes", ["a", "a", "b"]),
        ("classes", ["a", ""]),
        ("classes", "ab"),
        ("input.height", 0),
        ("input.height", 4097),
        ("input.height", "28"),
        ("input.height", 28.0),
        ("input.height", True),
        ("input.channels", 2),
        ("input.mean", [-0.1]),
        ("input.mean", [127.5]),
        ("input.mean", [float("nan")]),
        ("input.std", [0.0]),
        ("input.std", [float("inf")]),
        ("network.name", "lenet6"),
        ("weights.file", "../weights.safetensors"),
        ("weights.file", "/etc/passwd"),
        ("weights.file", "sub/weights.safetensors"),
        ("weights.file", "sub\\weights.safetensors"),
        ("weights.file", ".."),
        ("weights.file", "weights\0.safetensors"),
        ("weights.file", ""),
        ("weights.sha256", "A" * 64),
        ("weights.sha256", "0" * 63),
        ("measured.test_accuracy", 90.15),
        ("measured.test_accuracy", -0.1),
        ("measured.test_accuracy", float("nan")),
        ("measured.test_images", 0),
    ],
)
def test_a_value_out_of_range_is_named_with_its_field(bundle: Bundle, field: str, value: Any) -> None:
    edit(bundle, field, value)
    text = refusal(bundle.folder)
    assert f"teacher.toml: {field}" in text
    assert "given: " in text


@pytest.mark.parametrize("field", ["mean", "std"])
def test_mean_and_std_are_one_per_channel(bundle: Bundle, field: str) -> None:
    edit(bundle, f"input.{field}", [0.5, 0.5])
    assert f"input: Value error, {field} has 2 values; one per channel is allowed, 1" in refusal(bundle.folder)


def test_unknown_networks_are_refused_with_the_allowed_names(bundle: Bundle) -> None:
    edit(bundle, "network.name", "lenet6")
    text = refusal(bundle.folder)
    assert "network.name: Value error, allowed are lenet5, lenet5-half, " in text
    assert "torchvision:NAME, timm:NAME and module:function (given: 'lenet6')" in text


def test_one_bad_class_name_is_one_fault(bundle: Bundle) -> None:
    edit(bundle, "classes", ["a", "b\n"])
    assert refusal(bundle.folder).endswith(
        "teacher.toml: classes.1: Value error, only printable characters are allowed (given: 'b\\n')"
    )


def test_every_fault_of_a_manifest_is_told_at_once(bundle: Bundle) -> None:
    edit(bundle, "input.height", 0)
    edit(bundle, "measured.test_images", 0)
    text = refusal(bundle.folder)
    assert "input.height" in text
    assert "measured.test_images" in text


def test_a_network_is_refused_for_an_image_size_it_is_not_defined_for(bundle: Bundle) -> None:
    edit(bundle, "input.height", 32)
    assert "lenet5-half is defined for 28x28 images, not 32x28" in refusal(bundle.folder)


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "tpu", "", "CPU", "cpu:0", "cuda:-1"])
def test_devices_that_are_absent_are_refused_with_those_present(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ValueError, match=f"device is '{name}'; allowed on this machine are: cpu$"):
        choose_device(name)


def test_present_devices_are_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [str(choose_device(name)) for name in ("cpu", "cuda", "cuda:1")] == ["cpu", "cuda", "cuda:1"]
    with pytest.raises(ValueError, match="allowed on this machine are: cpu, cuda, cuda:0, cuda:1"):
        choose_device("cuda:2")
