"""A store that is lost or damaged: what it held is fetched again where that is free, and else nothing is bought."""

from pathlib import Path

from distill_client.commands import resume_command
from distill_client.errors import RunStoreError
from distill_client.teachers.paid.schema import damage, damaged_answers, forget_answers
from shared.counting import counted


def require_store(path: Path, *, has_notes: bool, is_counted_here: bool, mends: bool) -> str:
    """Have at ``path`` a store that can be gone on with, and say what was done for it; empty when nothing was.

    With ``mends`` a lost or damaged one is set aside, to be begun anew: every answer in it can be had again at no
    charge, by the keys in batches.json (``has_notes``). Not so where the store is the only count of what was bought
    (``is_counted_here``): that teacher would be paid again. Raises RunStoreError.
    """
    if path.is_file() and path.stat().st_size > 0 and not mends:
        return ""  # what is damaged inside is found when it is read
    if not (what := damage(path)):
        return _mend_answers(path, is_counted_here=is_counted_here)
    message = f"{path.parent}: {path.name}, which holds the paid answers, is {what}"
    if is_counted_here:
        raise RunStoreError(f"{message}. {_NOT_AGAIN}")
    if not has_notes:
        raise RunStoreError(message)
    if not mends:
        raise RunStoreError(f"{message}; `{resume_command(path.parent)}` fetches them again, at no charge")
    return f"{message}{_set_aside(path)}"


_NOT_AGAIN = (
    "It held the client's own ledger too, and this teacher keeps no count and would be paid for everything again, so "
    "nothing is sent. Bring the file back from a copy; or begin a new run, whose teacher's file allows what is left"
)


def _mend_answers(path: Path, *, is_counted_here: bool) -> str:
    found = damaged_answers(path)
    if not found:
        return ""
    what = f"{path.parent}: {counted(len(found), 'answer')} in {path.name}"
    if is_counted_here:
        numbers = ", ".join(map(str, found[:10]))
        raise RunStoreError(f"{what} were damaged (batches {numbers}). {_NOT_AGAIN}")
    forget_answers(path, found)
    return f"{what} were damaged and are forgotten"


def _set_aside(path: Path) -> str:
    number = 1 + len(list(path.parent.glob(f"{path.name}.damaged-*[0-9]")))
    done = ""
    for suffix in ("", "-wal", "-shm"):
        if (found := path.with_name(path.name + suffix)).exists():
            found.rename(path.with_name(f"{path.name}.damaged-{number}{suffix}"))
            done += f"; {found.name} is kept as {path.name}.damaged-{number}{suffix}"
    return done
