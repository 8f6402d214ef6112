"""Bundles written: whole or not at all, never over anything, and read again as they were."""

import hashlib
import tomllib
from contextlib import suppress
from pathlib import Path

import pytest
import safetensors.torch
import tomli_w
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.networks import create_network
from teacher_server.teachers.bundle import (
    Bundle,
    BundleError,
    load_bundle,
    load_network,
    serialise_weights,
    write_bundle,
)
from teacher_server.teachers.manifest import BundleManifest
from tests.teacher_server.teachers.bundle_edits import replace_weights


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
