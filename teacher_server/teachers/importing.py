"""The owner's model file to a bundle: read once, made harmless, tried on images, written whole or not at all."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from teacher_server.teachers.bundle import (
    WEIGHTS_FILE,
    Bundle,
    BundleError,
    manifest_faults,
    require_writable,
    write_bundle,
)
from teacher_server.teachers.classifier import NetworkClassifier, load_classifier
from teacher_server.teachers.manifest import BundleManifest
from teacher_server.teachers.model_file import Format, ModelFileError, identify
from teacher_server.teachers.onnx_model import with_external_data
from teacher_server.teachers.program_archive import sanitised_program
from teacher_server.teachers.sample_images import generated_sample_images, read_sample_images
from teacher_server.teachers.trial import (
    Outputs,
    Trial,
    kind_of_outputs,
    look_at_outputs,
    require_told_outputs,
    try_probabilities,
)

_FILE_NAMES: dict[Format, str] = {
    "safetensors": WEIGHTS_FILE,
    "torch-export": "program.pt2",
    "onnx": "model.onnx",
}


@dataclass(frozen=True)
class ImportOrder:
    """What the owner says of a model file. ``mean`` and ``std`` are of pixels in 0..1; ``input`` is H, W, C."""

    file: Path
    classes: tuple[str, ...]
    input: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    name: str
    version: str = "1"
    resize: str = "exact"
    network: str | None = None
    outputs: Outputs | None = None
    samples: tuple[Path, ...] = ()
    device: str = "cpu"


@dataclass(frozen=True)
class Imported:
    """The bundle that was made, and what the owner should know of it."""

    bundle: Bundle
    outputs_were: str
    trial: Trial
    notes: tuple[str, ...]


def import_bundle(order: ImportOrder, folder: Path, *, overwrite: bool = False) -> Imported:
    """Make a bundle of a torch.export program, an ONNX model or a safetensors state dict.

    Raises BundleError and ModelFileError, whose texts say what to do, and ValueError for a device that is not here.
    """
    require_writable(folder, overwrite=overwrite)
    original, weights, notes, form = _read(order)
    draft = _draft(order, form, hashlib.sha256(weights).hexdigest())
    where = str(order.file)
    classifier = _load(draft, order, weights)
    images_nhwc = (
        read_sample_images(order.samples, draft.input.spec)
        if order.samples
        else generated_sample_images(draft.input.spec)
    )
    outputs_nk = look_at_outputs(classifier, images_nhwc, where)
    outputs = order.outputs or kind_of_outputs(outputs_nk)
    if order.outputs:
        notes += require_told_outputs(outputs_nk, order.outputs, where)
    trial = try_probabilities(classifier.outputs, outputs, classifier.rows, images_nhwc, where)
    packages = ["torch"] + (["onnxruntime"] if form == "onnx" else [])
    manifest = _validated(
        draft.model_dump(exclude_none=True)
        | {
            "outputs": outputs,
            "imported": {
                "file": order.file.name,
                "sha256": hashlib.sha256(original).hexdigest(),
                "outputs": "told" if order.outputs else "detected",
                "sample_images": trial.sample_images,
                "batch_difference": trial.batch_difference,
                "versions": {package: version(package) for package in packages},
            },
        }
    )
    bundle = write_bundle(
        folder, manifest, weights, overwrite=overwrite, load=lambda written: _reload(written, order)
    )
    return Imported(bundle, "told" if order.outputs else "detected", trial, notes + trial.notes)


def _read(order: ImportOrder) -> tuple[bytes, bytes, tuple[str, ...], Format]:
    """The file's bytes, the bytes that go into the bundle, what was changed, and the format."""
    try:
        content = order.file.read_bytes()
    except OSError as error:
        raise BundleError(f"{order.file}: cannot be read ({error.strerror})") from error
    try:
        form = identify(content, order.file.name)
        if form == "torch-export":
            return content, sanitised_program(content), (), form
        if form == "onnx":
            weights, names = with_external_data(content, order.file.parent)
            copied = (f"the weights in {', '.join(names)} were copied into the model",) if names else ()
            return content, weights, copied, form
    except ModelFileError as error:
        raise BundleError(f"{order.file}: {error}") from error
    return content, content, (), form


def _draft(order: ImportOrder, form: Format, sha256: str) -> BundleManifest:
    """The manifest as far as the owner's words go; with outputs as they come, so that they can be looked at."""
    if form == "safetensors" and order.network is None:
        raise BundleError(
            f"{order.file}: a state dict needs its network: --network lenet5, torchvision:resnet18, timm:NAME or "
            "module:function"
        )
    if form != "safetensors" and order.network is not None:
        raise BundleError(f"{order.file}: {form} files bring their network; leave --network out")
    height, width, channels = order.input
    fields: dict[str, Any] = {
        "name": order.name,
        "version": order.version,
        "classes": order.classes,
        "input": {
            "height": height,
            "width": width,
            "channels": channels,
            "mean": order.mean,
            "std": order.std,
            "resize": order.resize,
        },
        "weights": {"file": _FILE_NAMES[form], "format": form, "sha256": sha256},
        "outputs": "probabilities",
    }
    return _validated(fields | ({"network": {"name": order.network}} if order.network else {}))


def _validated(fields: dict[str, Any]) -> BundleManifest:
    try:
        return BundleManifest.model_validate(fields)
    except ValidationError as error:
        raise BundleError("; ".join(manifest_faults(error))) from error


def _load(draft: BundleManifest, order: ImportOrder, weights: bytes) -> NetworkClassifier:
    """Load from the bytes that were read; messages speak of the owner's file."""
    at_hand = draft.model_copy(update={"weights": draft.weights.model_copy(update={"file": order.file.name})})
    return load_classifier(
        Bundle(at_hand, order.file.parent), order.device, trusted_networks=_trusted(order), content=weights
    )


def _reload(written: Bundle, order: ImportOrder) -> None:
    load_classifier(written, order.device, trusted_networks=_trusted(order)).warm()


def _trusted(order: ImportOrder) -> Sequence[str]:
    """Whoever names a network on the command line says that it may run."""
    return (order.network,) if order.network else ()
