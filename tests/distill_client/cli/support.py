"""The command in this process, and what its tests share."""

import json
import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
from numpy.typing import NDArray
from typer.testing import CliRunner, Result

from distill_client.cli import KEY_VARIABLE, app, main
from distill_client.teachers.manners.asking import Manners
from distill_client.teachers.native.teacher import connect
from shared.wire.contracts import Disclosure, InputSpec
from teacher_server.ledger.databases.database import Database
from teacher_server.ledger.keys.issuing import create_key
from teacher_server.teachers.catalogue import Catalogue
from teacher_server.teachers.teacher import Teacher
from tests.distill_client.fakes import answer_to, tiny_config

DIGITS = tuple("0123456789")


class HashClassifier:
    classes = len(DIGITS)

    def probabilities(self, images_nhwc: NDArray[np.uint8]) -> NDArray[np.float32]:
        return answer_to(images_nhwc).astype(np.float32)


def hash_teacher(name: str, class_names: tuple[str, ...] = DIGITS, height: int = 28) -> Teacher:
    return Teacher(
        name=name,
        version="1",
        class_names=class_names,
        input=InputSpec(height=height, width=28, channels=1),
        classifier=HashClassifier(),
        test_accuracy=0.75,
        test_dataset="digits",
    )


@dataclass(frozen=True)
class Served:
    """A server at ``url``, and its ledger for making keys."""

    url: str
    database: Database
    catalogue: Catalogue

    def key(self, name: str, budget: int = 100) -> str:
        parsed = Disclosure.parse("probabilities")
        return create_key(self.database, name=name, budget=budget, disclosure=parsed, expires_at=None)[1]


def write_config(path: Path, **changes: Any) -> Path:
    content = tiny_config(**changes).model_dump(mode="json", exclude_none=True)
    path.write_text(tomli_w.dumps(content), encoding="utf-8")
    return path


def distill(*words: object, key: str = "") -> Result:
    return CliRunner().invoke(app, [str(word) for word in words], env={KEY_VARIABLE: key})


def one_object(result: Result) -> dict[str, Any]:
    """What --json printed: one object on one line, and nothing else on standard output."""
    assert result.exit_code == 0, (result.output, result.exception)
    (line,) = result.stdout.splitlines()
    content: dict[str, Any] = json.loads(line)
    return content


@dataclass(frozen=True)
class Finished:
    path: Path
    secret: str
    summary: dict[str, Any]


def kinds_of_events(served: Served, secret: str) -> list[str]:
    with closing(connect(served.url, secret, "fake", manners=Manners(5, requests_in_flight=8))) as teacher:
        return [event.kind for event in teacher.events()]


def exit_of_main(monkeypatch: pytest.MonkeyPatch, *words: object) -> object:
    monkeypatch.setattr(sys, "argv", ["distill", *map(str, words)])
    with pytest.raises(SystemExit) as caught:
        main()
    return caught.value.code
