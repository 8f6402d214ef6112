"""Labelled data sets as uint8 images_nhwc and int64 truth: published ones by name, and folders of pictures."""

from pathlib import Path

import numpy as np
from PIL import Image

from shared.datasets.allocation import allocate_images
from shared.datasets.dataset import Dataset, DatasetUnavailable, Skipped, Split
from shared.datasets.folders import FOLDER_PREFIX, load_folder
from shared.datasets.published import DATASET_NAMES, load_published
from shared.wire.contracts import InputSpec, Resize
from shared.wire.images import Images, InvalidImages
from shared.wire.resizing import fit_picture

__all__ = [
    "DATASET_NAMES",
    "FOLDER_PREFIX",
    "Dataset",
    "DatasetUnavailable",
    "Skipped",
    "Split",
    "fit_images",
    "load_dataset",
]


def load_dataset(
    name: str, split: Split, *, size: tuple[int, int, int] | None = None, resize: Resize = "crop"
) -> Dataset:
    """Load one split of a published data set, or of a folder tree PATH/train/CLASS/*.jpg as ``folder:PATH``.

    With ``size`` (height, width, channels) images of another size are brought to it by ``resize``, the rule of
    ``shared.wire.resizing``. Without it a published set keeps its own size, and a folder's pictures must all have
    one. Files of a folder that cannot be read are in the result's ``skipped``.

    Raises ValueError for an unknown name or split or a size that does not fit, DatasetUnavailable when the files are
    nowhere to be had.
    """
    if split not in ("train", "test"):
        raise ValueError(f"split is {split!r}; allowed are train and test")
    if name.startswith(FOLDER_PREFIX):
        return load_folder(Path(name.removeprefix(FOLDER_PREFIX)), split, size=size, resize=resize)
    dataset = load_published(name, split)
    if size is None or size == dataset.images_nhwc.shape[1:]:
        return dataset
    height, width, channels = size
    spec = InputSpec.model_validate({"height": height, "width": width, "channels": channels, "resize": resize})
    try:
        fitted = fit_images(dataset.images_nhwc, spec)
    except InvalidImages as error:
        raise ValueError(f"data set {name}: {error}") from error
    return Dataset(dataset.name, split, fitted, dataset.truth_n, dataset.class_names)


def fit_images(images_nhwc: Images, spec: InputSpec) -> Images:
    """Bring uint8 images of one size, N x H x W x (1 or 3), to a teacher's input, as if each were a picture file.

    Raises InvalidImages when the rule is "exact" and they have another size.
    """
    fitted_nhwc = allocate_images((len(images_nhwc), spec.height, spec.width, spec.channels))
    for row, image in enumerate(images_nhwc):
        picture = Image.fromarray(np.ascontiguousarray(image[..., 0] if image.shape[2] == 1 else image))
        fitted_nhwc[row] = fit_picture(
            picture, height=spec.height, width=spec.width, channels=spec.channels, resize=spec.resize
        )
    return fitted_nhwc
