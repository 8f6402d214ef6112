"""GET /v1/teachers, a teacher and a version: what a key's holder may know; never the network or its weights."""

from fastapi import APIRouter, HTTPException

from shared.wire.contracts import TeacherCard, TeacherList
from shared.wire.error_codes import ErrorCode
from shared.wire.resizing import describe_preprocessing
from teacher_server.api.context import Caller, CurrentServer, Server
from teacher_server.api.documented import problems
from teacher_server.ledger.keys.issuing import Key
from teacher_server.ledger.keys.limits import RATE_WINDOW_S
from teacher_server.teachers.teacher import Teacher

router = APIRouter(
    tags=["teachers"],
    responses=problems(
        ErrorCode.UNAUTHENTICATED,
        ErrorCode.LEDGER_UNAVAILABLE,
        ErrorCode.NOT_FOUND,
        ErrorCode.TEACHER_NOT_FOUND,
        ErrorCode.INVALID_REQUEST,
    ),
)


@router.get("/v1/teachers", summary="Every teacher of this server")
async def list_teachers(key: Caller, server: CurrentServer) -> TeacherList:
    """Every version of every name, in the order of the names; of a name's versions the default comes last."""
    return TeacherList(teachers=[_card(teacher, key, server) for teacher in server.catalogue.all()])


@router.get("/v1/teachers/{name}", summary="One teacher, with this key's disclosure and budget")
async def get_teacher(name: str, key: Caller, server: CurrentServer) -> TeacherCard:
    """Classes, input shape, limits, and what this key may see and spend; of the default version."""
    return _card(server.labelling.teacher(name), key, server)


@router.get("/v1/teachers/{name}/versions/{version:path}", summary="One version of a teacher")
async def get_version(name: str, version: str, key: Caller, server: CurrentServer) -> TeacherCard:
    """The same of one version."""
    if version.endswith("/labels") and server.catalogue.find(name, version) is None:
        raise HTTPException(405, headers={"Allow": "POST"})  # the other address, which takes purchases only
    return _card(server.labelling.teacher(name, version), key, server)


def _card(teacher: Teacher, key: Key, server: Server) -> TeacherCard:
    return TeacherCard(
        name=teacher.name,
        version=teacher.version,
        answers_by_default=server.catalogue.versions(teacher.name)[-1:] == [teacher.version],
        classes=list(teacher.class_names),
        input=teacher.input,
        preprocessing=describe_preprocessing(teacher.input.resize),
        images_per_request_max=_images_per_request_max(key, server),
        body_bytes_max=server.settings.body_bytes_max,
        test_accuracy=teacher.test_accuracy,
        test_dataset=teacher.test_dataset,
        disclosure=str(key.disclosure),
        budget=key.usage,
    )


def _images_per_request_max(key: Key, server: Server) -> int:
    """A larger batch would never be answered: it is charged whole, and no window of the key holds it."""
    most, limits = [server.settings.images_per_request_max], key.limits
    if limits.images_per_day is not None:
        most.append(limits.images_per_day)
    if limits.images_per_second is not None:
        most.append(limits.images_per_second * RATE_WINDOW_S)
    return min(most)
