"""`distill teacher map`: a label map proposed from a few answers."""

import secrets
import sys
from collections import Counter, defaultdict
from contextlib import closing
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from distill_client.cli.options import say
from distill_client.config import PoolConfig
from distill_client.errors import ConfigError
from distill_client.run_folder import write_text
from distill_client.teachers.adapters.http_teacher import HttpTeacher
from distill_client.teachers.adapters.kinds import connect_described, load_teacher_file
from distill_client.teachers.label_map import REJECT
from distill_client.teachers.manners.asking import Manners, announce_retries
from distill_client.teachers.map_proposal import as_toml, propose
from distill_client.teachers.paid.file import StoreFile
from distill_client.teachers.paid.own_ledger import OwnLedger, count_answer
from distill_client.teachers.permission import require_permission
from distill_client.teachers.teacher_file import TeacherFile

IMAGES_MAX = 20
DEADLINE_S = 60.0


def map_labels(
    teacher: Annotated[Path, typer.Argument(help="the teacher's file (*.toml)", show_default=False)],
    images: Annotated[str, typer.Option(help="a folder of pictures, an .npz file, or a data set's name")],
    count: Annotated[int, typer.Option(min=1, max=IMAGES_MAX, help="how many of them are asked for")] = IMAGES_MAX,
    out: Annotated[Path | None, typer.Option(help="where the TOML goes; standard output if not given")] = None,
    ledger: Annotated[
        Path | None, typer.Option(help="what counts the answers; the teacher's file with .map.sqlite if not given")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="ask without being asked first")] = False,
) -> None:
    """Propose a label map: ask for a few answers, and match the teacher's names with the file's classes.

    Says first what it will cost. Where the images are labelled (a data set's name, or folder:PATH for a tree of one
    folder per class) names are matched by the images that they were given to, otherwise by how they are spelt.
    """
    file = load_teacher_file(teacher)
    require_permission(file)
    file = _taking_every_name(file)
    candidates = _read(images, count, file)
    count = len(candidates[0])
    price = file.price_per_image
    say(
        f"{count} images are asked for, one by one, counted in {_ledger_path(teacher, ledger)}; at {price} "
        f"{file.currency} each (price_per_image) they cost {count * price} {file.currency}"
    )
    if not yes:
        if not sys.stdin.isatty():
            raise ConfigError("nobody is there to be asked whether to buy them; --yes says it")
        typer.confirm("Ask?", abort=True)
    announce_retries(say)
    with closing(StoreFile(_ledger_path(teacher, ledger))) as store:
        own = OwnLedger(store)
        server = connect_described(file, Manners(DEADLINE_S, requests_in_flight=1))
        with closing(server):
            if not own.exists:
                own.begin(f"map {file.name}"[:80], server.card(), file.allowance)
            best = _ask(server.counted_by(own), own, file, candidates)
    text = as_toml(propose(file.labels.names_that_came(), file.classes, best), file.classes, count)
    if out is None:
        typer.echo(text, nl=False)
    else:
        write_text(out.resolve(), text)
        say(f"written to {out}; read it, then put it into the teacher's file, or name it as label_map_file")


def _ledger_path(teacher: Path, ledger: Path | None) -> Path:
    return ledger or teacher.with_suffix(".map.sqlite")


def _taking_every_name(file: TeacherFile) -> TeacherFile:
    """The same teacher, of which a name that is none of ours is no error, nor an answer that names few of them."""
    content = file.model_dump(exclude_unset=True)
    return type(file).model_validate({**content, "unmapped": REJECT, "answers": "label"})


_Candidates = tuple[NDArray[np.uint8], list[str] | None]


def _read(images: str, count: int, file: TeacherFile) -> _Candidates:
    """So many images at the teacher's input, spread over the source, and their classes where it says them."""
    from distill_client.pool import pool_input, read_candidates

    source = "file" if images.endswith(".npz") else "folder" if Path(images).is_dir() else "dataset"
    config = PoolConfig.model_validate({source: images, "images": count, "balanced": False})
    card = file.capabilities("uint8")
    found = read_candidates(config, pool_input(config, card))
    if found.images_nhwc.shape[1:] != file.image_hwc:
        raise ConfigError(
            f"--images {images}: images of {found.images_nhwc.shape[1:]}; the file says {file.image_size}"
        )
    places = np.unique(np.linspace(0, len(found.images_nhwc) - 1, count).astype(int))
    if found.truth_n is None or found.class_names is None:
        return found.images_nhwc[places], None
    return found.images_nhwc[places], [found.class_names[int(truth)] for truth in found.truth_n[places]]


def _ask(
    server: HttpTeacher, own: OwnLedger, file: TeacherFile, candidates: _Candidates
) -> dict[str, Counter[str]] | None:
    """Ask for each image, and count which name was the best answer to which true class of ours."""
    images_nhwc, truths = candidates
    best: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for place in range(len(images_nhwc)):
        before = file.labels.best_that_came()
        count_answer(own, server.label(images_nhwc[place : place + 1], f"map-{secrets.token_hex(16)}"))
        if truths is not None and truths[place] in file.classes:
            for name in file.labels.best_that_came() - before:
                best[name][truths[place]] += 1
    return None if truths is None else dict(best)
