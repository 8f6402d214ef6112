"""Every image a pool may be drawn from, at the teacher's input: a data set, a folder of pictures, an .npz file."""

import lzma
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distill_client.config import PoolConfig
from distill_client.errors import ConfigError
from shared.datasets import DatasetUnavailable, Skipped, fit_images, load_dataset
from shared.datasets.pictures import find_pictures, printable_name, read_pictures
from shared.wire.contracts import InputSpec, TeacherCard
from shared.wire.images import decode_npy

_MEMBER = "images"
_UNPACKED_BYTES_MAX = 1 << 30


@dataclass(frozen=True)
class Candidates:
    """images_nhwc uint8 N x H x W x C, each with the name of its file where it has one.

    truth_n int64 and class_names where the source is labelled, else None. ``place`` says where they are from.
    """

    place: str
    images_nhwc: NDArray[np.uint8]
    truth_n: NDArray[np.int64] | None = None
    class_names: tuple[str, ...] | None = None
    files: tuple[str, ...] = ()
    skipped: tuple[Skipped, ...] = ()


def pool_input(config: PoolConfig, card: TeacherCard | None) -> InputSpec | None:
    """The input that pictures are brought to: the teacher's, or ``pool.size`` where there is no teacher to ask.

    None for a published data set that keeps its own size. Raises ConfigError where nothing says the size, or where
    configuration and teacher differ.
    """
    size, rule = config.image_hwc, config.resize
    if card is not None:
        taken = (card.input.height, card.input.width, card.input.channels)
        if size not in (None, taken):
            raise ConfigError(f"pool.size is {config.size}; teacher {card.name} takes {'x'.join(map(str, taken))}")
        if rule is not None and card.input.resize not in ("exact", rule):
            raise ConfigError(
                f"pool.resize is {rule!r}; teacher {card.name} brings pictures to its input by "
                f"{card.input.resize!r}, so they would not be what it means by them; leave pool.resize out"
            )
        return card.input if rule is None else card.input.model_copy(update={"resize": rule})
    if size is not None:
        height, width, channels = size
        fields = {"height": height, "width": width, "channels": channels, "resize": rule or "crop"}
        return InputSpec.model_validate(fields)
    if config.is_brought_to_input:
        raise ConfigError(
            f"pool.size is not given and {config.source}: give the teacher's input, such as pool.size = '64x64x3', "
            "or --teacher URL to ask it"
        )
    return None


def read_candidates(config: PoolConfig, spec: InputSpec | None) -> Candidates:
    """Read the configured source. Raises ConfigError when there is nothing to be had from it."""
    try:
        if config.folder is not None:
            return _read_folder(config.folder, _required(spec))
        if config.file is not None:
            return _read_file(config.file, _required(spec))
        return _read_dataset(config, spec)
    except (DatasetUnavailable, ValueError) as error:
        raise ConfigError(
            f"{config.source}: {error}" if config.dataset is None else f"pool.dataset: {error}"
        ) from error


def _required(spec: InputSpec | None) -> InputSpec:
    assert spec is not None, "pool_input gives one for every source that is not a published data set"
    return spec


def _read_dataset(config: PoolConfig, spec: InputSpec | None) -> Candidates:
    name = str(config.dataset)
    if spec is not None and (config.size or config.is_brought_to_input):
        size = (spec.height, spec.width, spec.channels)
        dataset = load_dataset(name, "train", size=size, resize=spec.resize)
    else:
        dataset = load_dataset(name, "train")
    place = f"{dataset.name} ({dataset.split})"
    if config.is_unlabelled:
        return Candidates(place, dataset.images_nhwc, skipped=dataset.skipped)
    return Candidates(place, dataset.images_nhwc, dataset.truth_n, dataset.class_names, (), dataset.skipped)


def _read_folder(folder: Path, spec: InputSpec) -> Candidates:
    if not folder.is_dir():
        raise DatasetUnavailable("there is no such folder")
    found, of_other_kinds = find_pictures(folder)
    pictures = read_pictures(found, folder, spec)
    files = tuple(printable_name(found[index], folder) for index in pictures.files)
    return Candidates(str(folder), pictures.images_nhwc, files=files, skipped=(*of_other_kinds, *pictures.skipped))


def _read_file(path: Path, spec: InputSpec) -> Candidates:
    try:
        fitted = fit_images(_read_npz(path), spec)
    except OSError as error:
        raise DatasetUnavailable(f"it cannot be read: {error.strerror or error}") from error
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError) as error:
        raise ValueError(f"it is not an .npz file, or a damaged one: {error}") from error
    return Candidates(str(path), fitted, files=tuple(f"images[{row}]" for row in range(len(fitted))))


def _read_npz(path: Path) -> NDArray[np.uint8]:
    """The array ``images`` of an .npz as images_nhwc; more than a bound is not unpacked, and no pickle is read.

    Raises ValueError (InvalidImages) and what zipfile raises.
    """
    with zipfile.ZipFile(path) as archive:
        if f"{_MEMBER}.npy" not in archive.namelist():
            names = ", ".join(name.removesuffix(".npy") for name in archive.namelist()[:5]) or "nothing"
            raise ValueError(f"it holds no array named {_MEMBER!r}, but {names}")
        announced = archive.getinfo(f"{_MEMBER}.npy").file_size
        if announced > _UNPACKED_BYTES_MAX:
            raise ValueError(f"its images unpack to {announced} bytes; allowed are {_UNPACKED_BYTES_MAX}")
        array = decode_npy(archive.read(f"{_MEMBER}.npy"))
    if array.dtype != np.uint8:
        raise ValueError(f"its images are {array.dtype}; allowed is uint8 (0 to 255)")
    images_nhwc = array[..., None] if array.ndim == 3 else array
    if images_nhwc.ndim != 4 or images_nhwc.shape[3] not in (1, 3) or 0 in images_nhwc.shape:
        raise ValueError(f"its images have shape {array.shape}; allowed are (N, H, W), (N, H, W, 1) and (N, H, W, 3)")
    return np.asarray(images_nhwc, dtype=np.uint8)
