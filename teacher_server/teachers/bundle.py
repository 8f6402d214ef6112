"""A teacher bundle: a folder with ``teacher.toml`` and its weights file, and the checks before either is used.

Every way a bundle can be damaged is a BundleError whose text names the file and the field, the value found and what
is allowed, because the person who reads it is starting a server and has nothing else to go by.
"""

import hashlib
import os
import shutil
import tempfile
import tomllib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import tomli_w
import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from torch import nn

from shared.networks import create_network, network_source
from teacher_server.teachers.manifest import BundleManifest, WeightsTable

MANIFEST_FILE = "teacher.toml"
WEIGHTS_FILE = "weights.safetensors"
FAULTS_SHOWN = 8


class BundleError(ValueError):
    """A bundle that cannot be served; the text names the file, the field, the value and what is allowed."""


@dataclass(frozen=True)
class Bundle:
    """A bundle whose manifest is valid and whose weights file has the announced SHA-256."""

    manifest: BundleManifest
    folder: Path

    @property
    def weights_path(self) -> Path:
        """Where the weights lie."""
        return self.folder / self.manifest.weights.file


def load_bundle(folder: Path) -> Bundle:
    """Read and check a bundle without building its network; raises BundleError."""
    bundle = Bundle(_read_manifest(folder / MANIFEST_FILE), folder)
    read_weights(bundle)
    return bundle


def load_network(
    bundle: Bundle,
    device: torch.device | str = "cpu",
    *,
    trusted_networks: Collection[str] = (),
    content: bytes | None = None,
) -> nn.Module:
    """Build the network of a safetensors bundle in eval mode on ``device`` (float32 images_nchw to outputs_nk).

    The weights are read, compared with their SHA-256 and parsed from the same bytes, so a file that is exchanged
    after ``load_bundle`` is noticed. A network that is the owner's own code (``module:function``) is only made when
    ``trusted_networks`` names it: a bundle may have come from somebody else. ``content`` stands for the weights file
    of a bundle that is not written yet. Raises BundleError, ValueError for a device this machine does not have.
    """
    target = choose_device(device)
    manifest = bundle.manifest
    if manifest.network is None:
        raise BundleError(f"{bundle.weights_path}: is {manifest.weights.format}; allowed here is safetensors")
    name = manifest.network.name
    where = bundle.folder / MANIFEST_FILE if content is None else bundle.weights_path
    if network_source(name) == "own" and name not in trusted_networks:
        raise BundleError(
            f"{where}: network.name is {name!r}, code that loading this bundle would run; "
            f"allow it with --trust-network {name} (or TEACHER_TRUSTED_NETWORKS), if it is yours"
        )
    try:
        network = create_network(
            name,
            height=manifest.input.height,
            width=manifest.input.width,
            channels=manifest.input.channels,
            classes=len(manifest.classes),
        )
    except ValueError as error:
        raise BundleError(f"{where}: network.name, input: {error}") from error
    try:
        tensors = safetensors.torch.load(read_weights(bundle) if content is None else content)
    except (SafetensorError, KeyError, ValueError, TypeError, RuntimeError) as error:  # it has no one kind of error
        raise BundleError(f"{bundle.weights_path}: weights: not a whole safetensors file ({error})") from error
    _require_tensors(bundle, tensors, network.state_dict())
    network.load_state_dict(tensors)
    return network.eval().to(target, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def choose_device(name: torch.device | str) -> torch.device:
    """Return the device of that name; raises ValueError when it is unknown here, saying what is allowed."""
    present = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    if str(name) == "cuda" and len(present) > 1:
        return torch.device("cuda")
    if str(name) not in present:
        allowed = ", ".join(["cpu", "cuda", *present[1:]] if len(present) > 1 else present)
        raise ValueError(f"device is {str(name)!r}; allowed on this machine are: {allowed}")
    return torch.device(name)


def serialise_weights(network: nn.Module) -> tuple[bytes, WeightsTable]:
    """The network's tensors as safetensors bytes, and the manifest's table that describes them."""
    content = safetensors.torch.save(
        {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    )
    return content, WeightsTable(file=WEIGHTS_FILE, sha256=hashlib.sha256(content).hexdigest())


def require_writable(folder: Path, *, overwrite: bool) -> None:
    """Raise BundleError when a bundle may not be written to ``folder``.

    What exists is replaced only when asked for, and only if it is a bundle: never somebody's other files.
    """
    if folder.exists() and not overwrite:
        raise BundleError(f"{folder}: already exists; choose another folder, or remove this one first")
    if folder.exists() and not (folder / MANIFEST_FILE).is_file():
        raise BundleError(f"{folder}: exists and is not a bundle ({MANIFEST_FILE} is missing), so it is not replaced")


def write_bundle(
    folder: Path,
    manifest: BundleManifest,
    weights: bytes,
    *,
    overwrite: bool = False,
    load: Callable[[Bundle], object] | None = None,
) -> Bundle:
    """Write a bundle so that ``folder`` holds all of it or is as it was; returns it as loaded back.

    ``load`` is tried on what was written, before it is put in place (default: ``load_network``). With ``overwrite``
    the whole folder is replaced, whatever else was in it. Raises BundleError when ``require_writable`` does, or when
    what is to be written could not be loaded again.
    """
    require_writable(folder, overwrite=overwrite)
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        fields = manifest.model_dump(mode="json", exclude_none=True)
        _write_durably(draft / manifest.weights.file, weights)
        _write_durably(draft / MANIFEST_FILE, tomli_w.dumps(fields).encode())
        (load or _load_own_network)(load_bundle(draft))
        draft.chmod(0o755)  # mkdtemp's folders are their maker's alone
        _put_in_place(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return load_bundle(folder)


def read_weights(bundle: Bundle) -> bytes:
    """The bytes of the weights file, whose SHA-256 is the announced one. Raises BundleError."""
    path, announced = bundle.weights_path, bundle.manifest.weights.sha256
    if not path.is_file():
        raise BundleError(f"{path}: not a file, but weights.file in {MANIFEST_FILE} names it")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BundleError(f"{path}: cannot be read ({error.strerror})") from error
    found = hashlib.sha256(content).hexdigest()
    if found != announced:
        raise BundleError(f"{path}: has SHA-256 {found}, but weights.sha256 in {MANIFEST_FILE} is {announced}")
    return content


def _load_own_network(bundle: Bundle) -> object:
    """Whoever writes a bundle has chosen its network, and so trusts it."""
    network = bundle.manifest.network
    return load_network(bundle, trusted_networks=() if network is None else (network.name,))


def _read_manifest(path: Path) -> BundleManifest:
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BundleError(
            f"{path}: cannot be read ({error.strerror}); a bundle is a folder with this file"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError(f"{path}: not a TOML file: {error}") from error
    try:
        return BundleManifest.model_validate(content)
    except ValidationError as error:
        raise BundleError(f"{path}: " + "; ".join(manifest_faults(error))) from error


def manifest_faults(error: ValidationError) -> list[str]:
    """Each field at fault, what is wrong with it and what was given."""
    faults = []
    for fault in error.errors():
        field = ".".join(str(part) for part in fault["loc"]) or "the file"
        given = (
            "" if fault["type"] == "missing" or isinstance(fault["input"], dict) else f" (given: {fault['input']!r})"
        )
        faults.append(f"{field}: {fault['msg']}{given}")
    return faults


def _require_tensors(bundle: Bundle, found: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> None:
    """Compare names, shapes, dtypes and finiteness; raises BundleError naming the tensors at fault."""
    faults = [f"{name} is missing" for name in wanted if name not in found]
    faults += [f"{name} is not a tensor of the network" for name in found if name not in wanted]
    for name in wanted.keys() & found.keys():
        have, want = found[name], wanted[name]
        if have.shape != want.shape or have.dtype != want.dtype:
            faults.append(f"{name} is {have.dtype} {tuple(have.shape)}, allowed is {want.dtype} {tuple(want.shape)}")
        elif not torch.isfinite(have).all():
            faults.append(f"{name} holds NaN or infinite values")
    if faults:
        manifest = bundle.manifest
        name = manifest.network.name if manifest.network else ""
        network = f"{name} with {len(manifest.classes)} classes"
        more = f"; and {len(faults) - FAULTS_SHOWN} more" if len(faults) > FAULTS_SHOWN else ""
        shown = "; ".join(sorted(faults)[:FAULTS_SHOWN]) + more
        raise BundleError(f"{bundle.weights_path}: does not fit network.name {network}: {shown}")


def _write_durably(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _put_in_place(draft: Path, folder: Path) -> None:
    """Rename ``draft`` to ``folder``; a folder that was there steps aside first, and back if the rename fails."""
    aside = draft.with_name(f"{draft.name}.old")
    if folder.exists():
        folder.rename(aside)
    try:
        draft.rename(folder)
    except OSError:
        if aside.exists():
            aside.rename(folder)
        raise
    shutil.rmtree(aside, ignore_errors=True)
    parent = os.open(folder.parent, os.O_RDONLY)
    try:
        os.fsync(parent)
    finally:
        os.close(parent)
