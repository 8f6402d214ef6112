"""Versions side by side, and what loading them again keeps, exchanges and refuses."""

from pathlib import Path

import pytest
import tomli_w

from teacher_server.teachers.bundle import MANIFEST_FILE, Bundle, BundleError, write_bundle
from teacher_server.teachers.catalogue import Catalogue
from teacher_server.teachers.teacher import Teacher, bundle_folders, load_teachers
from tests.teacher_server.support import NumbersClassifier, numbers_teacher
from tests.teacher_server.teachers.conftest import MakeBundle


def teacher(name: str, version: str) -> Teacher:
    return numbers_teacher(NumbersClassifier(), name=name, version=version)


def rewrite(bundle: Bundle, **fields: object) -> None:
    """Change fields of the manifest, as an owner with an editor does."""
    content = bundle.manifest.model_dump(mode="json", exclude_none=True) | fields
    (bundle.folder / MANIFEST_FILE).write_text(tomli_w.dumps(content))


def test_of_several_versions_the_last_given_is_the_default() -> None:
    catalogue = Catalogue([teacher("b", "2"), teacher("a", "9"), teacher("b", "1")])
    assert [(each.name, each.version) for each in catalogue.all()] == [("a", "9"), ("b", "2"), ("b", "1")]
    assert catalogue.versions("b") == ["2", "1"]
    for version in (None, "1"):
        found = catalogue.find("b", version)
        assert found is not None
        assert found.version == "1"
    assert catalogue.find("b", "3") is None
    assert catalogue.find("c") is None


def test_one_version_is_served_once_and_a_refused_exchange_changes_nothing() -> None:
    catalogue = Catalogue([teacher("a", "1")])
    with pytest.raises(ValueError, match="two bundles are teacher 'a' version '2'"):
        catalogue.replace([teacher("a", "2"), teacher("a", "2")])
    assert catalogue.versions("a") == ["1"]


def test_the_inputs_of_what_is_gone_are_remembered() -> None:
    first = teacher("a", "1")
    catalogue = Catalogue([first])
    catalogue.replace([teacher("b", "1")])
    assert catalogue.find("a") is None
    assert catalogue.inputs_ever("a") == [first.input]


def test_loading_again_keeps_what_is_the_same_and_loads_what_is_new(make_bundle: MakeBundle) -> None:
    first = make_bundle("one")
    (served,) = load_teachers([first.folder], device="cpu")
    rewrite(first, measured={"test_accuracy": 0.5, "test_dataset": "mine", "test_images": 10})
    second = make_bundle("two", weights_scale=2.0)
    rewrite(second, version="2")

    again, new = load_teachers([first.folder, second.folder], device="cpu", served=[served])

    assert again.classifier is served.classifier
    assert again.test_accuracy == 0.5
    assert (new.name, new.version) == ("untrained", "2")


def test_a_version_that_is_served_keeps_its_meaning(make_bundle: MakeBundle) -> None:
    first = make_bundle("one")
    served = load_teachers([first.folder], device="cpu")
    other = make_bundle("other", weights_scale=2.0)
    write_bundle(first.folder, other.manifest, other.weights_path.read_bytes(), overwrite=True)
    with pytest.raises(
        BundleError, match=r"version is '1', under which untrained is being served with other weights"
    ):
        load_teachers([first.folder], device="cpu", served=served)
    assert load_teachers([first.folder], device="cpu")[0].version == "1", (
        "a server that starts has nothing to compare"
    )


def test_a_folder_of_bundles_is_all_of_them_in_the_order_of_their_numbers(
    make_bundle: MakeBundle, tmp_path: Path
) -> None:
    for name in ("v10", "v2", ".v3-half-written", "w"):
        make_bundle(f"shelf/{name}")
    (tmp_path / "shelf" / "notes").mkdir()
    assert [folder.name for folder in bundle_folders(tmp_path / "shelf")] == ["v2", "v10", "w"]
    assert bundle_folders(tmp_path / "shelf" / "v2") == [tmp_path / "shelf" / "v2"]
    assert bundle_folders(tmp_path / "none") == [tmp_path / "none"], "and loading that says what is missing"
