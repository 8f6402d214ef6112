"""Every kind of teacher that a file may describe, and the adapter that asks it."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError

from distill_client.config import faults_of
from distill_client.errors import ConfigError
from distill_client.teachers.adapters.adapter import Adapter
from distill_client.teachers.adapters.custom_http.adapter import CustomHttpAdapter
from distill_client.teachers.adapters.custom_http.file import CustomHttpFile
from distill_client.teachers.adapters.http_teacher import HttpTeacher
from distill_client.teachers.adapters.huggingface import HuggingFaceAdapter, HuggingFaceFile
from distill_client.teachers.adapters.open_inference import OpenInferenceAdapter
from distill_client.teachers.adapters.openai_chat import OpenAIChatAdapter, OpenAIChatFile
from distill_client.teachers.adapters.tf_serving import TfServingAdapter, TfServingFile
from distill_client.teachers.adapters.torchserve import TorchServeAdapter, TorchServeFile
from distill_client.teachers.adapters.v2_file import OpenInferenceFile
from distill_client.teachers.label_map import Usefulness
from distill_client.teachers.manners.asking import Manners
from distill_client.teachers.teacher_file import TeacherFile
from distill_client.teachers.teacher_toml import read_teacher_toml
from distill_client.teachers.transport import Transport

AnyTeacherFile = Annotated[
    CustomHttpFile | HuggingFaceFile | OpenAIChatFile | OpenInferenceFile | TfServingFile | TorchServeFile,
    Field(discriminator="kind"),
]
KINDS = ("custom-http", "huggingface", "open-inference", "openai-chat", "tf-serving", "torchserve")
_FILES: TypeAdapter[TeacherFile] = TypeAdapter(AnyTeacherFile)


def load_teacher_file(path: Path) -> TeacherFile:
    """Read and validate a teacher's file. Raises ConfigError naming the key, the value and what is allowed."""
    content = read_teacher_toml(path)
    kind = content.get("kind")
    if kind not in KINDS:
        given = "is missing" if kind is None else f"is {kind!r}"
        raise ConfigError(f"{path}: kind {given}; allowed are {', '.join(KINDS)}")
    try:
        return _FILES.validate_python(content)
    except ValidationError as error:
        # Each begins with the kind, which is no key of the file.
        faults = [fault.removeprefix(f"{kind}.").removeprefix(f"{kind}: ") for fault in faults_of(error)]
        raise ConfigError(f"{path}: " + "; ".join(faults)) from error


def make_adapter(file: TeacherFile) -> Adapter:
    """The adapter for a file's kind."""
    match file:
        case CustomHttpFile():
            return CustomHttpAdapter(file)
        case HuggingFaceFile():
            return HuggingFaceAdapter(file)
        case OpenAIChatFile():
            return OpenAIChatAdapter(file)
        case OpenInferenceFile():
            return OpenInferenceAdapter(file)
        case TfServingFile():
            return TfServingAdapter(file)
        case TorchServeFile():
            return TorchServeAdapter(file)
    raise AssertionError(f"no adapter for kind {file.kind}")


def connect_described(file: TeacherFile, manners: Manners) -> HttpTeacher:
    """The teacher that a file describes, with the key that its environment variable holds. Raises ConfigError."""
    secret = file.secret()
    headers = {} if secret is None else {"Authorization": f"Bearer {secret}"}
    transport = Transport.to(
        file.address,
        headers=headers,
        deadline_s=min(manners.deadline_s, file.timeout_s),
        sign=file.signer(),
        secrets=file.secret_texts(),
    )
    return HttpTeacher(
        make_adapter(file),
        transport,
        manners,
        allowance=file.allowance,
        upscaling=file.upscaling,
        usefulness=Usefulness(file.labels),
    )
