"""Reading a purchase's body: bounded while it is read, never more than asked for."""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from fnmatch import fnmatchcase

import anyio
from fastapi import Request
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from shared.wire.error_codes import ErrorCode
from shared.wire.images import NPY_MEDIA_TYPE
from teacher_server.decoding import Body, ImageFilesBody, NpyBody
from teacher_server.errors import Refusal
from teacher_server.settings import TeacherSettings

MULTIPART_MEDIA_TYPE = "multipart/form-data"
FILES_FIELD = "images"


async def read_body(request: Request, settings: TeacherSettings) -> Body:
    """Read and parse the body of our own protocol: one array, or a form of image files.

    Raises Refusal: as ``read_bytes``, and invalid_request, too_many_images.
    """
    media_type = require_media_type(request, (NPY_MEDIA_TYPE, MULTIPART_MEDIA_TYPE))
    if media_type == NPY_MEDIA_TYPE:
        return NpyBody(await read_bytes(request, settings))
    require_encoding(request, ())
    async with _arriving(request, settings) as chunks:
        return await _read_files(request, chunks, settings)


async def read_bytes(request: Request, settings: TeacherSettings, encodings: Sequence[str] = ()) -> bytes:
    """Read a body as it is; of the ``encodings`` it may have, nothing is undone here.

    Raises Refusal: unsupported_media_type, body_too_large (from Content-Length, before a byte is read, or while
    reading), body_incomplete (too slow, or the caller went away).
    """
    require_encoding(request, encodings)
    async with _arriving(request, settings) as chunks:
        return b"".join([chunk async for chunk in chunks])


def require_media_type(request: Request, allowed: Sequence[str], *, pattern: str = "") -> str:
    """The Content-Type without its parameters, empty where it is not said; of ``allowed``, or like ``pattern``.

    Raises Refusal(unsupported_media_type).
    """
    request.state.body_was_read = False
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type not in allowed and not (pattern and fnmatchcase(media_type, pattern)):
        named = [each for each in (pattern, *allowed) if each]
        raise Refusal(
            ErrorCode.UNSUPPORTED_MEDIA_TYPE,
            f"Content-Type is {media_type!r}; allowed are {', '.join(named[:-1])} and {named[-1]}",
        )
    return media_type


def require_encoding(request: Request, allowed: Sequence[str]) -> str:
    """The Content-Encoding, empty for none. Raises Refusal(unsupported_media_type)."""
    request.state.body_was_read = False
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding in ("", "identity"):
        return ""
    if encoding not in allowed:
        raise Refusal(
            ErrorCode.UNSUPPORTED_MEDIA_TYPE,
            f"Content-Encoding is {encoding!r}; a body is read "
            + (f"uncompressed, or as {' or '.join(allowed)}" if allowed else "as it is, uncompressed"),
        )
    return encoding


@asynccontextmanager
async def _arriving(request: Request, settings: TeacherSettings) -> AsyncIterator[AsyncIterator[bytes]]:
    """The body's pieces, for as long as they may take."""
    request.state.body_was_read = False
    try:
        with anyio.fail_after(settings.body_timeout_s):
            yield _bounded_chunks(request, settings.body_bytes_max)
    except TimeoutError as error:
        raise Refusal(
            ErrorCode.BODY_INCOMPLETE, f"the body did not arrive within {settings.body_timeout_s:g} seconds"
        ) from error
    except ClientDisconnect as error:  # there is nobody left to read this, but it is no defect of ours
        raise Refusal(ErrorCode.BODY_INCOMPLETE, "the connection was closed before the whole body came") from error
    request.state.body_was_read = True


async def _bounded_chunks(request: Request, body_bytes_max: int) -> AsyncIterator[bytes]:
    announced = request.headers.get("content-length", "")
    # Compared by length first: Python refuses to read numbers of thousands of digits.
    if announced.isdecimal() and (len(announced) > 18 or int(announced) > body_bytes_max):
        raise _too_large(announced[:40], body_bytes_max)
    received = 0
    async for chunk in request.stream():
        received += len(chunk)
        if received > body_bytes_max:
            raise _too_large(f"more than {received}", body_bytes_max)
        yield chunk


def _too_large(found: str, body_bytes_max: int) -> Refusal:
    return Refusal(
        ErrorCode.BODY_TOO_LARGE,
        f"the body has {found} bytes; allowed are {body_bytes_max}",
        body_bytes_max=body_bytes_max,
    )


class _WholeFormParser(MultiPartParser):
    """Knows whether the closing boundary came: without it the last file would be missing, and nobody told."""

    ended = False

    def on_end(self) -> None:
        self.ended = True


async def _read_files(request: Request, chunks: AsyncIterator[bytes], settings: TeacherSettings) -> ImageFilesBody:
    async def stream() -> AsyncGenerator[bytes, None]:
        async for chunk in chunks:
            yield chunk
        if not parser.ended:  # raised in here, so that the parser closes what it opened
            raise Refusal(ErrorCode.INVALID_REQUEST, "multipart form: the closing boundary is missing")
        yield b""  # the parser takes this for the end

    # One more than allowed, so that the count is refused with its own code and not as a malformed form.
    files_max = settings.images_per_request_max + 1
    parser = _WholeFormParser(request.headers, stream(), max_files=files_max, max_fields=16)
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError) as error:
        too_many = "Too many files" in str(error)
        code = ErrorCode.TOO_MANY_IMAGES if too_many else ErrorCode.INVALID_REQUEST
        raise Refusal(code, f"multipart form: {getattr(error, 'message', 'no boundary')}") from error
    try:
        fields = sorted({name for name, _ in form.multi_items() if name != FILES_FIELD})
        if fields:
            raise Refusal(
                ErrorCode.INVALID_REQUEST,
                f"form field {fields[0]!r} is not known; send image files as `{FILES_FIELD}`",
            )
        files = form.getlist(FILES_FIELD)
        if any(isinstance(file, str) for file in files):
            raise Refusal(
                ErrorCode.INVALID_REQUEST,
                f"`{FILES_FIELD}` holds text; it takes image files, as in curl -F {FILES_FIELD}=@picture.png",
            )
        return ImageFilesBody(tuple([await file.read() for file in files if not isinstance(file, str)]))
    finally:
        await form.close()
