"""What came of reading a folder of pictures, in words."""

from distill_client.pool import Pool
from shared.datasets import Dataset, Skipped

_SHOWN = 20


def describe_reading(pool: Pool, test: Dataset | None) -> list[str]:
    """Lines on a pool of files, and on files of a test set that were skipped; none where there is nothing to say."""
    lines = []
    if pool.files or pool.skipped:
        lines.append(f"pool: {len(pool.images_nhwc)} of {pool.usable} usable pictures in {pool.place}")
        lines += _describe_skipped(pool.skipped)
    if test is not None and test.skipped:
        lines.append(f"test set: {len(test.images_nhwc)} pictures in {test.name}")
        lines += _describe_skipped(test.skipped)
    return lines


def _describe_skipped(skipped: tuple[Skipped, ...]) -> list[str]:
    if not skipped:
        return ["  none was skipped"]
    lines = [f"  skipped {one.file}: {one.reason}" for one in skipped[:_SHOWN]]
    if len(skipped) > _SHOWN:
        lines.append(f"  ... and {len(skipped) - _SHOWN} more; a run keeps the whole list in its pool.json")
    return lines
