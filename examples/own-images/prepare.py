"""Write ten classes of Tiny-ImageNet as folders of JPEG files: an owner's labelled tree, and 200 pictures of ours.

OUT/owner/train/CLASS and OUT/owner/test/CLASS are what the teacher's owner has; OUT/mine holds 200 pictures without
labels, 20 of each class, in one flat folder under meaningless names. They are taken out of the owner's training
tree, so the teacher has never seen them. The JPEG files are the published ones, byte for byte.
"""

import hashlib
import io
import os
import zipfile
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

PROJECT = Path(__file__).resolve().parents[2]
MINE_PER_CLASS = 20


def main(out: Annotated[Path, typer.Argument(help="the folder to make; must not exist")]) -> None:
    """Write the folders; needs tinyimagenet10-train.zip and tinyimagenet10-test.zip in $DISTILL_DATA or beside."""
    if out.exists():
        raise SystemExit(f"{out} exists; choose another folder, or remove it first")
    written = 0
    for split in ("train", "test"):
        with zipfile.ZipFile(_find(f"tinyimagenet10-{split}.zip")) as archive:
            classes = archive.read("classes.txt").decode().split("\n")
            truth_n = np.load(io.BytesIO(archive.read("labels.npy")), allow_pickle=False)
            members = sorted(member for member in archive.namelist() if member.startswith("images/"))
            taken = dict.fromkeys(classes, 0)
            for member, label in zip(members, truth_n.tolist(), strict=True):
                name, content = classes[label], archive.read(member)
                if split == "train" and taken[name] < MINE_PER_CLASS:
                    taken[name] += 1
                    path = out / "mine" / f"{hashlib.sha256(content).hexdigest()[:12]}.jpg"
                else:
                    path = out / "owner" / split / name / Path(member).with_suffix(".jpg").name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
                written += 1
    print(f"{out}: {written} pictures, {len(list((out / 'mine').iterdir()))} of them in {out / 'mine'}, unlabelled")


def _find(file: str) -> Path:
    """The archive in the places where the project looks for data sets."""
    places = [Path(os.environ.get("DISTILL_DATA", PROJECT / "data")), PROJECT.parent / "shared" / "data"]
    for place in places:
        if (place / file).is_file():
            return place / file
    raise SystemExit(
        f"{file} is in none of {', '.join(map(str, places))}; set DISTILL_DATA to a folder that holds it, "
        "or use a tree of your own: owner/train/CLASS/*.jpg, owner/test/CLASS/*.jpg, and pictures in mine/"
    )


if __name__ == "__main__":
    typer.run(main)
