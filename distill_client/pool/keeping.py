"""The pool on the disk of its run, so that a resumption needs neither the pictures nor that they are unchanged."""

from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from distill_client.durable import write_durably
from distill_client.errors import RunStoreError
from distill_client.pool.drawing import Pool
from shared.datasets import Dataset, Skipped
from shared.datasets.allocation import MEMORY_BYTES_MAX
from shared.wire.contracts import Digest
from shared.wire.images import batch_digest, decode_npy, encode_npy, image_digests

IMAGES_FILE = "pool.npy"
SECOND_FILE = "second_pool.npy"
RECORD_FILE = "pool.json"


class _Record(BaseModel):
    """What pool.json holds; lists of names are in the pool's order."""

    model_config = ConfigDict(frozen=True)

    place: str
    images: int
    usable: int
    digest: Digest
    test_digest: Digest | None
    class_names: tuple[str, ...]
    truth: tuple[Annotated[int, Field(ge=0)], ...] | None
    files: tuple[str, ...]
    skipped: tuple[Skipped, ...]
    test_skipped: tuple[Skipped, ...]
    second_digest: Digest | None = None


def keep_pool(folder: Path, pool: Pool, test: Dataset | None) -> None:
    """Write the pool's very bytes and where they are from, and the digest of the test set. Raises OSError."""
    record = _Record(
        place=pool.place,
        images=len(pool.images_nhwc),
        usable=pool.usable,
        digest=images_digest(pool.images_nhwc),
        test_digest=None if test is None else images_digest(test.images_nhwc),
        class_names=pool.class_names,
        truth=None if pool.truth_n is None else tuple(pool.truth_n.tolist()),
        files=pool.files,
        skipped=pool.skipped,
        test_skipped=() if test is None else test.skipped,
        second_digest=None if pool.second_nhwc is None else images_digest(pool.second_nhwc),
    )
    if pool.second_nhwc is not None:
        write_durably(folder / SECOND_FILE, encode_npy(pool.second_nhwc))
    write_durably(folder / IMAGES_FILE, encode_npy(pool.images_nhwc))
    write_durably(folder / RECORD_FILE, (record.model_dump_json(indent=2) + "\n").encode())


def read_kept_pool(folder: Path) -> tuple[Pool, str | None] | None:
    """The kept pool and the test set's digest; None where a run keeps none. Raises RunStoreError when damaged."""
    if not (folder / RECORD_FILE).exists():
        return None
    try:
        record = _Record.model_validate_json((folder / RECORD_FILE).read_text(encoding="utf-8"))
        images_nhwc = _read_images(folder / IMAGES_FILE, record.digest)
        second_nhwc = None
        if record.second_digest is not None:
            second_nhwc = _read_images(folder / SECOND_FILE, record.second_digest)
    except (OSError, ValidationError, ValueError) as error:
        raise RunStoreError(f"{folder}: the kept pool cannot be read: {error}") from error
    truth_n = None if record.truth is None else np.array(record.truth, dtype=np.int64)
    pool = Pool(
        images_nhwc,
        truth_n,
        record.class_names,
        record.place,
        record.usable,
        record.files,
        record.skipped,
        second_nhwc,
    )
    return pool, record.test_digest


def _read_images(path: Path, digest: str) -> NDArray[np.uint8]:
    if path.stat().st_size > MEMORY_BYTES_MAX:
        images_nhwc = np.load(path, mmap_mode="r", allow_pickle=False)
    else:
        images_nhwc = decode_npy(path.read_bytes())
    if images_nhwc.dtype != np.uint8 or images_nhwc.ndim != 4:
        raise ValueError(f"{path.name} holds {images_nhwc.dtype} of shape {images_nhwc.shape}")
    if images_digest(images_nhwc) != digest:
        raise ValueError(f"{path.name}: its images are not those that the run began with")
    return np.asanyarray(images_nhwc, dtype=np.uint8)


def images_digest(images_nhwc: NDArray[np.uint8]) -> str:
    """One SHA-256, in hex, of many images in their order."""
    return batch_digest(image_digests(images_nhwc))
