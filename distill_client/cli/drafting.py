"""`distill init`: a new experiment's file, from a teacher's card and the images at hand. Buys nothing."""

from pathlib import Path
from typing import Annotated

import typer

from distill_client.cli.connecting import asked
from distill_client.cli.options import out as console
from distill_client.cli.options import say
from distill_client.cli.planning import PATIENCE_S
from distill_client.errors import ConfigError
from distill_client.run_folder import write_text
from distill_client.teachers.manners.asking import Manners, announce_retries


def init(
    pool: Annotated[
        str,
        typer.Option(help="the real images: a folder, an .npz file, folder:PATH (a labelled tree) or a data set"),
    ],
    teacher: Annotated[
        str, typer.Option(help="address of the teacher server, such as http://127.0.0.1:8000; or a *.toml")
    ],
    answers: Annotated[int, typer.Option(min=2, max=10_000_000, help="images that may be bought in all")],
    out: Annotated[Path, typer.Option(help="the file to write, *.toml")],
    name: Annotated[str | None, typer.Option(help="which teacher of our server, for an address")] = None,
    student: Annotated[str | None, typer.Option(help="the student's network; chosen by the images' size")] = None,
    test: Annotated[
        str | None, typer.Option(help="labelled images to measure accuracy on, a data set's name or folder:PATH")
    ] = None,
    pool_images: Annotated[
        int | None, typer.Option(help="how many real images are bought; all of your own, 2,000 of a published set")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="that every draw of the run comes from")] = 1,
    force: Annotated[bool, typer.Option("--force", help="replace the file if it is there")] = False,
) -> None:
    """Write a commented TOML file for a new experiment with our method; `distill plan` accepts it as it stands.

    The teacher is asked for its card, which costs nothing: its name, its classes and the size of its images are taken
    from there. All of the pool's images are looked at. The training is the one that was measured to suit so many
    answers. What cannot be known is said in a comment; edit what you know better.

    The key of our servers is read from DISTILL_API_KEY.
    """
    from distill_client.drafting import Wishes, draft

    if out.suffix != ".toml":
        raise ConfigError(f"--out is {str(out)!r}; allowed is a file that ends in .toml")
    if out.exists() and not force:
        raise ConfigError(f"{out} is there already; --force replaces it, or give another --out")
    announce_retries(say)
    with asked(teacher, name, Manners(PATIENCE_S, requests_in_flight=1), buys=False) as server:
        card = server.card()
    wishes = Wishes(pool, answers, out, student=student, test=test, pool_images=pool_images, seed=seed)
    text = draft(wishes, card, teacher)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, text)
    if answers > card.budget.remaining:
        lacking = answers - card.budget.remaining
        say(f"{card.budget.remaining:,} of {card.budget.granted:,} images are left; {card.how_to_get(lacking)}")
    console.print(f"{out} is written; next: distill plan {out} --teacher {teacher}", soft_wrap=True, markup=False)
