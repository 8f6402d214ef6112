"""Everything a server relies on in a bundle, checked by doing it."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from teacher_server.teachers.bundle import MANIFEST_FILE, Bundle, BundleError, load_bundle
from teacher_server.teachers.classifier import load_classifier
from teacher_server.teachers.sample_images import generated_sample_images, read_sample_images
from teacher_server.teachers.trial import Trial, try_classifier


@dataclass(frozen=True)
class Checked:
    """A sound bundle and what was found on the sample images."""

    bundle: Bundle
    trial: Trial


def check_bundle(
    folder: Path, *, samples: Sequence[Path] = (), device: str = "cpu", trusted_networks: Collection[str] = ()
) -> Checked:
    """Read the manifest, compare the SHA-256, build the network and try it on images.

    Raises BundleError for whatever is not sound, ValueError for samples or a device that cannot be used.
    """
    if not folder.is_dir():
        raise BundleError(f"{folder}: not a folder; a bundle is a folder with {MANIFEST_FILE} and a weights file")
    bundle = load_bundle(folder)
    classifier = load_classifier(bundle, device, trusted_networks=trusted_networks)
    spec = bundle.manifest.input.spec
    images_nhwc = read_sample_images(samples, spec) if samples else generated_sample_images(spec)
    return Checked(bundle, try_classifier(classifier, images_nhwc, str(bundle.weights_path)))
