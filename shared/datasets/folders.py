"""A labelled folder of pictures, laid out as torchvision's ImageFolder takes it: PATH/train/CLASS/*.jpg."""

from pathlib import Path

import numpy as np

from shared.datasets.dataset import Dataset, DatasetUnavailable, Skipped, Split
from shared.datasets.pictures import common_size, find_pictures, read_pictures
from shared.wire.contracts import InputSpec, Resize

FOLDER_PREFIX = "folder:"

_SPLIT_FOLDERS: dict[Split, tuple[str, ...]] = {"train": ("train",), "test": ("test", "val", "validation")}


def load_folder(root: Path, split: Split, *, size: tuple[int, int, int] | None, resize: Resize) -> Dataset:
    """Read one split at ``size`` (height, width, channels), or at the one size that all its pictures have.

    The classes are the folders of the training split, in sorted order; each may be nested. Raises DatasetUnavailable
    when there is no such folder, ValueError for an empty class, classes that differ from split to split, or pictures
    of several sizes without a ``size``.
    """
    folder = _split_folder(root, split)
    class_names = _class_names(root, folder)
    paths, truth, skipped = [], [], list[Skipped]()
    for label, class_name in enumerate(class_names):
        found, of_other_kinds = find_pictures(folder / class_name)
        paths += found
        truth += [label] * len(found)
        skipped += [Skipped(f"{class_name}/{other.file}", other.reason) for other in of_other_kinds]
    height, width, channels = size or common_size(paths, folder)
    spec = InputSpec.model_validate({"height": height, "width": width, "channels": channels, "resize": resize})
    pictures = read_pictures(paths, folder, spec)
    truth_n = np.array(truth, dtype=np.int64)[pictures.files]
    _require_every_class(folder, class_names, truth_n, (*skipped, *pictures.skipped))
    # By its last part: the name goes into a teacher's card, where its owner's folders are nobody's business.
    name = FOLDER_PREFIX + root.resolve().name
    return Dataset(name, split, pictures.images_nhwc, truth_n, class_names, (*skipped, *pictures.skipped))


def _split_folder(root: Path, split: Split) -> Path:
    if not root.is_dir():
        raise DatasetUnavailable(f"{root} is not a folder")
    for name in _SPLIT_FOLDERS[split]:
        if (root / name).is_dir():
            return root / name
    wanted = ", ".join(str(root / name) for name in _SPLIT_FOLDERS[split])
    raise DatasetUnavailable(
        f"{root} has no {split} split: looked for {wanted}; a split is a folder with one folder of pictures per class"
    )


def _class_names(root: Path, folder: Path) -> tuple[str, ...]:
    try:
        names = _folders_in(folder)
    except OSError as error:
        raise DatasetUnavailable(f"{folder} cannot be read: {error.strerror}") from error
    training = root / _SPLIT_FOLDERS["train"][0]
    expected = _folders_in(training) if training.is_dir() else names
    if not expected:
        raise ValueError(f"{training if training.is_dir() else folder} has no folders; one per class is wanted")
    if names != expected:
        differing = ", ".join(repr(name) for name in sorted(set(names) ^ set(expected)))
        raise ValueError(f"{folder} and {training} have different classes: {differing} are in one of them only")
    return expected


def _folders_in(folder: Path) -> tuple[str, ...]:
    return tuple(sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and entry.name[0] != "."))


def _require_every_class(
    folder: Path,
    class_names: tuple[str, ...],
    truth_n: np.ndarray[tuple[int], np.dtype[np.int64]],
    skipped: tuple[Skipped, ...],
) -> None:
    counts = np.bincount(truth_n, minlength=len(class_names))
    empty = [repr(name) for name, count in zip(class_names, counts, strict=True) if count == 0]
    if empty:
        first = f", the first: {skipped[0].file}: {skipped[0].reason}" if skipped else ""
        raise ValueError(
            f"{folder}: no readable picture in class {', '.join(empty)} ({len(skipped)} files skipped in the split"
            f"{first}); PNG, JPEG and WebP are read"
        )
