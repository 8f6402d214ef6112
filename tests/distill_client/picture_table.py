"""The table of odd pictures in docs/client.md, from real runs: `python -m tests.distill_client.picture_table`.

Each row is one file of a folder that `distill plan` reads as a pool; what the user is told is what it printed.
"""

import os
import re
import sys
import tempfile
from pathlib import Path

from tests.distill_client.pool.test_npz_files import BAD_FILES
from tests.reliability.processes import Done, ForkServer, close_forks
from tests.shared.odd_pictures import encode, ignored_files, paint, unusable_files, usable_files, write_all

DISTILL = ForkServer("tests.reliability.distill_program:main")
KINDS = {
    "rotated by EXIF.jpg": "held upright by EXIF alone: turned, then cut",
    "transparent.png": "with alpha: laid over black",
    "grey.png": "greyscale: its channel repeated for a colour teacher",
    "grey with alpha.png": "greyscale with alpha",
    "cmyk.jpg": "CMYK: converted to RGB",
    "palette.png": "palette: its colours",
    "sixteen-bit.png": "16-bit greyscale: the high byte",
    "one-bit.png": "one bit: black and white",
    "animated.webp": "animated WebP: the first frame",
    "übung mit Leerzeichen 猫.jpg": "Unicode and spaces in the name",
    "UPPER CASE.JPG": "extension in capitals",
    "really a webp.jpg": "WebP named .jpg: content counts",
    "small.png": "4 x 5 pixels: enlarged",
    "one row.png": "500 x 1 pixels",
    "truncated.jpg": "cut off half way",
    "corrupt.png": "bytes overwritten",
    "empty.png": "zero bytes",
    "a text.jpg": "text named .jpg",
    "bomb.png": "2.5 gigapixels in 200 bytes",
    "animated.gif": "GIF, animated",
    "a gif.png": "GIF named .png",
    "scan.tiff": "TIFF",
    "1x1.png": "one pixel",
    "the same again.webp": "after resizing the same as another",
    "gone.jpg": "a link to nothing",
    "pipe.jpg": "a named pipe",
    ".hidden.jpg": "hidden",
    "._resource fork.jpg": "macOS' shadow file",
    "notes.txt": "not a picture",
    "Thumbs.db": "not a picture",
}


def write_pictures(folder: Path) -> None:
    """Every kind of file, in one folder; one.png is what `the same again.webp` is the same as."""
    write_all(folder, {**usable_files(), **unusable_files(), **ignored_files()})
    write_all(folder, {"1x1.png": encode(paint(201, height=1, width=1), "PNG")})
    same = paint(200)
    write_all(folder, {"one.png": encode(same, "PNG"), "the same again.webp": encode(same, "WEBP", lossless=True)})
    (folder / "gone.jpg").symlink_to(folder / "nowhere.jpg")
    os.mkfifo(folder / "pipe.jpg")


def plan(folder: Path, pool: str, images: int) -> Done:
    """`distill plan` of a pool, without a teacher."""
    config = folder.parent / "experiment.toml"
    config.write_text(
        f'name = "odd"\nseed = 1\nbudget_images = {images}\nteacher.name = "none"\nsynthesis.images = 0\n'
        f'student.network = "torchvision:mobilenet_v3_small"\ntraining.steps = 1\n'
        f'[pool]\n{pool}\nsize = "64x64x3"\nimages = {images}\n'
    )
    return DISTILL.run("distill", "plan", config)


def picture_rows() -> list[str]:
    """One row per file of the table."""
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work).resolve() / "pictures"
        write_pictures(folder)
        done = plan(folder, f'folder = "{folder}"', 14)
        assert done.returncode == 0, done.stderr
        told = dict(re.findall(r"^  skipped (.+?): (.+)$", done.stderr, re.MULTILINE))
        assert f"pool: 14 of {len(usable_files())} usable pictures" in done.stderr, done.stderr
    rows = []
    for file, kind in KINDS.items():
        outcome = f"skipped: {told.pop(file)}" if file in told else "used"
        rows.append(f"| `{file}` | {kind} | {'ignored, without a word' if file in ignored_files() else outcome} |")
    assert not told, told
    return rows


def npz_rows() -> list[str]:
    """One row per bad .npz of the table."""
    rows = []
    with tempfile.TemporaryDirectory() as work:
        path = Path(work).resolve() / "images.npz"
        for kind, (content, _) in BAD_FILES.items():
            path.write_bytes(content)
            done = plan(path, f'file = "{path}"', 2)
            assert done.returncode == 2, done.stderr
            rows.append(f"| {kind} | {done.stderr.strip().partition('images.npz: ')[2]} |")
    return rows


if __name__ == "__main__":
    sys.stdout.write("\n".join([*picture_rows(), "", *npz_rows()]) + "\n")
    close_forks()
