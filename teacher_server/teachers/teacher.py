"""A teacher that is being served: what may be known of it, and its classifier; loading all that are configured."""

import hashlib
import json
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from shared.wire.contracts import InputSpec
from teacher_server.teachers.bundle import MANIFEST_FILE, Bundle, BundleError, load_bundle
from teacher_server.teachers.classifier import Classifier, load_classifier


@dataclass(frozen=True)
class Teacher:
    """One private model under its public name and version; ``content_digest`` is of all that decides its answers."""

    name: str
    version: str
    class_names: tuple[str, ...]
    input: InputSpec
    classifier: Classifier
    test_accuracy: float | None
    test_dataset: str | None
    content_digest: str = ""


def load_teacher(folder: Path, *, device: str, trusted_networks: Collection[str] = ()) -> Teacher:
    """Load and warm a bundle. Raises BundleError, and ValueError for a device this machine does not have."""
    bundle = load_bundle(folder)
    classifier = load_classifier(bundle, device, trusted_networks=trusted_networks)
    classifier.warm()
    return _teacher(bundle, classifier)


def load_teachers(
    folders: Iterable[Path], *, device: str, trusted_networks: Collection[str] = (), served: Iterable[Teacher] = ()
) -> list[Teacher]:
    """Load every bundle of these folders; of those already ``served`` only what has changed.

    A version that is served keeps its meaning: a bundle with the same name and version and other content is refused,
    because nobody could tell its answers from the earlier ones. Raises BundleError, ValueError as ``load_teacher``.
    """
    known = {(teacher.name, teacher.version): teacher for teacher in served}
    teachers = []
    for folder in chain.from_iterable(map(bundle_folders, folders)):
        bundle = load_bundle(folder)
        manifest = bundle.manifest
        earlier = known.get((manifest.name, manifest.version))
        if earlier is None:
            teachers.append(load_teacher(folder, device=device, trusted_networks=trusted_networks))
        elif earlier.content_digest == _content_digest(bundle):
            teachers.append(_teacher(bundle, earlier.classifier))
        else:
            raise BundleError(
                f"{folder / MANIFEST_FILE}: version is {manifest.version!r}, under which {manifest.name} is being "
                "served with other weights, classes or input; give what changed another version"
            )
    return teachers


def bundle_folders(folder: Path) -> list[Path]:
    """The folder itself; or, when it is no bundle but holds some, those, by name (v2 before v10)."""
    if (folder / MANIFEST_FILE).exists() or not folder.is_dir():
        return [folder]
    inside = [
        entry for entry in folder.iterdir() if not entry.name.startswith(".") and (entry / MANIFEST_FILE).exists()
    ]
    return sorted(inside, key=_by_number) or [folder]


def _by_number(folder: Path) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", folder.name)]


def _teacher(bundle: Bundle, classifier: Classifier) -> Teacher:
    manifest = bundle.manifest
    return Teacher(
        name=manifest.name,
        version=manifest.version,
        class_names=tuple(manifest.classes),
        input=manifest.input.spec,
        classifier=classifier,
        test_accuracy=manifest.measured.test_accuracy if manifest.measured else None,
        test_dataset=manifest.measured.test_dataset if manifest.measured else None,
        content_digest=_content_digest(bundle),
    )


def _content_digest(bundle: Bundle) -> str:
    content = bundle.manifest.model_dump(mode="json", include={"classes", "input", "network", "weights", "outputs"})
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
