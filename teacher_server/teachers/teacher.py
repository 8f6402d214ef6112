"""A teacher that is being served: what may be known of it, and its classifier."""

from dataclasses import dataclass
from pathlib import Path

from shared.wire.contracts import InputSpec
from teacher_server.teachers.bundle import load_bundle
from teacher_server.teachers.classifier import Classifier, load_classifier


@dataclass(frozen=True)
class Teacher:
    """One private model under its public name."""

    name: str
    version: str
    class_names: tuple[str, ...]
    input: InputSpec
    classifier: Classifier
    test_accuracy: float | None
    test_dataset: str | None


def load_teacher(folder: Path, *, device: str) -> Teacher:
    """Load and warm a bundle. Raises BundleError, and ValueError for a device this machine does not have."""
    bundle = load_bundle(folder)
    manifest = bundle.manifest
    classifier = load_classifier(bundle, device)
    classifier.warm()
    return Teacher(
        name=manifest.name,
        version=manifest.version,
        class_names=tuple(manifest.classes),
        input=manifest.input.spec,
        classifier=classifier,
        test_accuracy=manifest.measured.test_accuracy if manifest.measured else None,
        test_dataset=manifest.measured.test_dataset if manifest.measured else None,
    )
