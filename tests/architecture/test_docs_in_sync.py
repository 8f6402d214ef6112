"""Documentation that a program can check is checked: the README's tree, the error table, the settings."""

import re
from pathlib import Path

from pydantic import BaseModel

from distill_client import errors
from distill_client.cli import EPILOG
from distill_client.config import RunConfig
from shared.wire.error_codes import ERROR_KINDS
from teacher_server.settings import ENV_PREFIX, TeacherSettings

PROJECT = Path(__file__).resolve().parents[2]
README = (PROJECT / "README.md").read_text()
CLIENT_DOC = (PROJECT / "docs" / "client.md").read_text()
SERVER_DOC = (PROJECT / "docs" / "server.md").read_text()


def test_every_path_in_the_readmes_tree_exists_and_every_folder_is_in_it() -> None:
    tree = re.search(r"## The tree\n.*?```\n(.*?)```", README, re.DOTALL)
    assert tree, "the README has a section `## The tree` with a code block"
    named = {line.split()[0].rstrip("/") for line in tree[1].splitlines() if line.strip()}
    missing = [name for name in named if not (PROJECT / name).exists()]
    assert missing == []
    packages = {
        str(path.parent.relative_to(PROJECT))
        for package in ("shared", "teacher_server", "distill_client")
        for path in (PROJECT / package).rglob("__init__.py")
    }
    assert packages - named == set()


def test_every_error_code_is_documented_with_its_status() -> None:
    for code, kind in ERROR_KINDS.items():
        assert re.search(rf"\| `{code}` \| {kind.status} \| {'yes' if kind.retryable else 'no'} \|", SERVER_DOC), code


def test_every_setting_is_documented_with_its_default() -> None:
    for name, setting in TeacherSettings.model_fields.items():
        variable = ENV_PREFIX + name.upper()
        row = re.search(rf"^\| `{variable}` \| ([^|]*) \|", SERVER_DOC, re.MULTILINE)
        assert row, variable
        if not setting.is_required():
            assert str(setting.default) in row[1].replace(",", ""), variable


def configuration_keys(section: type[BaseModel], prefix: str = "") -> list[str]:
    keys = []
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            keys += configuration_keys(field.annotation, f"{prefix}{name}.")
        else:
            keys.append(prefix + name)
    return keys


def test_every_configuration_key_is_documented() -> None:
    assert [key for key in configuration_keys(RunConfig) if f"`{key}`" not in CLIENT_DOC] == []


def test_every_exit_code_of_the_client_is_documented_and_in_its_help() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    for code in {kind.exit_code for kind in kinds if issubclass(kind, errors.DistillError)} - {1}:
        assert re.search(rf"^\| {code} \| ", CLIENT_DOC, re.MULTILINE), code
        assert re.search(rf"[ :,]{code} [a-z]", EPILOG), code


def test_readme_names_every_command() -> None:
    for words in (
        "teacher serve",
        "teacher reload",
        "teacher bundle import",
        "teacher bundle check",
        "teacher train",
        "teacher predict",
        "teacher keys create",
        "distill init",
        "distill plan",
        "distill run",
        "distill resume",
        "distill audit",
        "distill evaluate",
        "distill predict",
    ):
        assert words in README, words
