"""Damaged bundles: each is refused with a text that names the file, the field, the value and what is allowed."""

import hashlib
import pickle
import tomllib
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import tomli_w
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.networks import create_network
from teacher_server.teachers.bundle import (
    Bundle,
    BundleError,
    choose_device,
    load_bundle,
    load_network,
    serialise_weights,
    write_bundle,
)
from teacher_server.teachers.manifest import BundleManifest

COMMITTED = Path(__file__).parents[3] / "bundles" / "fashion-mnist-lenet5"
ABSENT = object()


def edit(bundle: Bundle, field: str, value: Any) -> None:
    """Set (or, with ABSENT, remove) a dotted field of the bundle's teacher.toml."""
    path = bundle.folder / "teacher.toml"
    content = tomllib.loads(path.read_text())
    *tables, last = field.split(".")
    table = content
    for name in tables:
        table = table[name]
    if value is ABSENT:
        del table[last]
    else:
        table[last] = value
    path.write_text(tomli_w.dumps(content))


def replace_weights(bundle: Bundle, content: bytes) -> None:
    """Exchange the weights file and announce the new one's SHA-256, as a careless owner might."""
    bundle.weights_path.write_bytes(content)
    edit(bundle, "weights.sha256", hashlib.sha256(content).hexdigest())


def tensors(bundle: Bundle) -> dict[str, torch.Tensor]:
    return safetensors.torch.load(bundle.weights_path.read_bytes())


def refusal(folder: Path) -> str:
    """The text a server prints that is started with this bundle."""
    with pytest.raises(BundleError) as caught:
        load_network(load_bundle(folder))
    return str(caught.value)


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


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_damaged_weights_header_is_refused_or_sound(bundle: Bundle, data: st.DataObject) -> None:
    sound = {path: path.read_bytes() for path in bundle.folder.iterdir()}
    content = bytearray(sound[bundle.weights_path])
    for position in data.draw(st.lists(st.integers(0, 800), min_size=1, max_size=3)):
        content[position] = data.draw(st.integers(0, 255))
    try:
        replace_weights(bundle, bytes(content))
        with suppress(BundleError):
            load_network(load_bundle(bundle.folder))
    finally:
        for path, original in sound.items():
            path.write_bytes(original)


def test_a_bundle_is_not_overwritten_unless_asked(bundle: Bundle) -> None:
    weights = bundle.weights_path.read_bytes()
    newer = bundle.manifest.model_copy(update={"version": "2"})

    with pytest.raises(BundleError, match="already exists"):
        write_bundle(bundle.folder, newer, weights)
    assert load_bundle(bundle.folder).manifest.version == "1"

    assert write_bundle(bundle.folder, newer, weights, overwrite=True).manifest.version == "2"
    assert [entry.name for entry in bundle.folder.parent.iterdir()] == ["bundle"]


def test_a_folder_that_is_no_bundle_is_never_replaced(bundle: Bundle, tmp_path: Path) -> None:
    precious = tmp_path / "home" / "thesis.tex"
    precious.parent.mkdir()
    precious.write_text("ten years of work")

    with pytest.raises(BundleError, match="is not a bundle"):
        write_bundle(precious.parent, bundle.manifest, bundle.weights_path.read_bytes(), overwrite=True)
    assert precious.read_text() == "ten years of work"


def test_what_could_not_be_loaded_again_is_not_written(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="has SHA-256"):
        write_bundle(tmp_path / "new", bundle.manifest, b"other weights")
    assert [entry.name for entry in tmp_path.iterdir()] == ["bundle"]


def test_a_failed_overwrite_leaves_the_older_bundle(bundle: Bundle) -> None:
    with pytest.raises(BundleError):
        write_bundle(bundle.folder, bundle.manifest, b"other weights", overwrite=True)
    assert load_bundle(bundle.folder) == bundle


@settings(deadline=None)
@given(
    name=st.from_regex(r"[a-z0-9][a-z0-9._-]{0,20}", fullmatch=True),
    classes=st.lists(st.text(min_size=1, max_size=50).filter(str.isprintable), min_size=2, max_size=5, unique=True),
    accuracy=st.floats(0, 1),
)
def test_any_manifest_survives_being_written(name: str, classes: list[str], accuracy: float) -> None:
    """Names with quotes, backslashes and emoji come back as they were."""
    manifest = BundleManifest.model_validate(
        {
            "name": name,
            "version": '"1\\',
            "classes": classes,
            "input": {"height": 28, "width": 28, "channels": 1, "mean": [0.5], "std": [0.25]},
            "network": {"name": "lenet5"},
            "weights": {"file": "weights.safetensors", "sha256": "0" * 64},
            "measured": {"test_accuracy": accuracy, "test_dataset": "d", "test_images": 1},
        }
    )
    written = tomli_w.dumps(manifest.model_dump(mode="json", exclude_none=True))
    assert BundleManifest.model_validate(tomllib.loads(written)) == manifest


def test_serialised_weights_are_described_by_their_table() -> None:
    network = create_network("lenet5", height=28, width=28, channels=1, classes=10)
    content, table = serialise_weights(network)
    assert table.sha256 == hashlib.sha256(content).hexdigest()
    assert set(safetensors.torch.load(content)) == set(network.state_dict())


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
