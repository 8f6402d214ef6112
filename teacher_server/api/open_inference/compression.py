"""Compressed request bodies: undone within a bound, whatever they would grow to."""

import zlib

from shared.wire.error_codes import ErrorCode
from teacher_server.errors import Refusal

ENCODINGS = ("gzip", "deflate")
_WINDOW_OF_GZIP = 16 + zlib.MAX_WBITS


def decompress(content: bytes, encoding: str, bytes_max: int) -> bytes:
    """Undo ``encoding`` (one of ENCODINGS; empty: none). Raises Refusal: body_too_large, invalid_request."""
    if not encoding:
        return content
    stream = zlib.decompressobj(_WINDOW_OF_GZIP if encoding == "gzip" else zlib.MAX_WBITS)
    try:
        plain = stream.decompress(content, bytes_max + 1)
    except zlib.error as error:
        raise Refusal(ErrorCode.INVALID_REQUEST, f"the body is not {encoding}: {error}") from error
    if len(plain) > bytes_max:
        raise Refusal(
            ErrorCode.BODY_TOO_LARGE,
            f"the body has more than {bytes_max} bytes once it is uncompressed; allowed are {bytes_max}",
            body_bytes_max=bytes_max,
        )
    if not stream.eof or stream.unused_data:
        what = "goes on after its end" if stream.eof else "is cut off"
        raise Refusal(ErrorCode.INVALID_REQUEST, f"the body is {encoding} that {what}")
    return plain
