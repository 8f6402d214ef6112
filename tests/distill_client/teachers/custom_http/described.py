"""Teachers described in TOML, asked through everything that a run asks them through, on an account of their own."""

import tomllib
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from distill_client.teachers.adapters.custom_http.file import CustomHttpFile
from distill_client.teachers.adapters.http_teacher import HttpTeacher
from distill_client.teachers.adapters.kinds import AnyTeacherFile, connect_described
from distill_client.teachers.manners.asking import Manners
from distill_client.teachers.paid.file import StoreFile
from distill_client.teachers.paid.own_ledger import OwnLedger
from tests.distill_client.teachers.adapters.vendor import CLASSES

PROJECT = Path(__file__).resolve().parents[4]
RECIPES = PROJECT / "configs" / "teachers"
SECRET = "s3cr3t/with+odd=characters"
ROWS = {
    "request": {"template": {"image": "{image_base64}"}},
    "reply": {"rows": "results", "label": "name", "score": "score"},
}


def described(content: dict[str, Any]) -> CustomHttpFile:
    """A file of kind custom-http with these keys."""
    found = TypeAdapter(AnyTeacherFile).validate_python(content)
    assert isinstance(found, CustomHttpFile)
    return found


def a_file(url: str, **keys: Any) -> CustomHttpFile:
    """One of four classes and images of 5x6x3, whose replies hold rows of name and score unless told otherwise."""
    plain = {
        "kind": "custom-http",
        "name": "theirs",
        "url": url,
        "classes": CLASSES,
        "image_size": "5x6x3",
        "max_queries": 100,
        "i_have_permission": True,
    }
    return described({**plain, **ROWS, **keys})


def recipe(name: str, url: str, **keys: Any) -> CustomHttpFile:
    """A recipe as its user would fill it in, at a local address: its own scheme and host are replaced."""
    content = tomllib.loads((RECIPES / name).read_text())
    path = content["url"].split("/", 3)[3]
    filled = {"url": f"{url}/{path}", "classes": CLASSES, "image_size": "5x6x3", "i_have_permission": True}
    return described({**content, **filled, **keys})


@contextmanager
def asked_as(
    file: CustomHttpFile, folder: Path, *, deadline_s: float = 5.0, requests_in_flight: int = 4
) -> Iterator[tuple[HttpTeacher, OwnLedger]]:
    """The teacher, counted by a ledger in ``folder``."""
    store = StoreFile(folder / "own.sqlite")
    teacher = connect_described(file, Manners(deadline_s, requests_in_flight=requests_in_flight))
    try:
        ledger = OwnLedger(store)
        ledger.begin("test", teacher.card(), file.allowance)
        yield teacher.counted_by(ledger), ledger
    finally:
        teacher.close()
        store.close()


def path_and_query(path: str) -> tuple[str, dict[str, str]]:
    """What was asked for, taken apart."""
    found = urllib.parse.urlsplit(path)
    return found.path, dict(urllib.parse.parse_qsl(found.query))
