"""Every kind of teacher that a file may describe, and the adapter that asks it."""

import tomllib
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError

from distill_client.config import faults_of
from distill_client.errors import ConfigError
from distill_client.teachers.adapters.adapter import Adapter
from distill_client.teachers.adapters.http_teacher import HttpTeacher
from distill_client.teachers.adapters.huggingface import HuggingFaceAdapter, HuggingFaceFile
from distill_client.teachers.adapters.open_inference import OpenInferenceAdapter
from distill_client.teachers.adapters.v2_file import OpenInferenceFile
from distill_client.teachers.manners.asking import Manners
from distill_client.teachers.teacher_file import TeacherFile
from distill_client.teachers.transport import Transport

AnyTeacherFile = Annotated[HuggingFaceFile | OpenInferenceFile, Field(discriminator="kind")]
_FILES: TypeAdapter[HuggingFaceFile | OpenInferenceFile] = TypeAdapter(AnyTeacherFile)


def load_teacher_file(path: Path) -> TeacherFile:
    """Read and validate a teacher's file. Raises ConfigError naming the key, the value and what is allowed."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not a TOML file: {error}") from error
    try:
        return _FILES.validate_python(content)
    except ValidationError as error:
        raise ConfigError(f"{path}: " + "; ".join(faults_of(error))) from error


def make_adapter(file: TeacherFile) -> Adapter:
    """The adapter for a file's kind."""
    match file:
        case HuggingFaceFile():
            return HuggingFaceAdapter(file)
        case OpenInferenceFile():
            return OpenInferenceAdapter(file)
    raise AssertionError(f"no adapter for kind {file.kind}")


def connect_described(file: TeacherFile, manners: Manners) -> HttpTeacher:
    """The teacher that a file describes, with the key that its environment variable holds. Raises ConfigError."""
    secret = file.secret()
    headers = {} if secret is None else {"Authorization": f"Bearer {secret}"}
    transport = Transport.to(file.url, headers=headers, deadline_s=manners.deadline_s)
    return HttpTeacher(make_adapter(file), transport, manners)
