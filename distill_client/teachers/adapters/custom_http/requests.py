"""From images to the request that a described teacher wants."""

import base64
import hashlib
import json
import urllib.parse
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from distill_client.teachers.adapters.custom_http.file import CustomHttpFile
from distill_client.teachers.adapters.custom_http.templates import fill, fill_text
from distill_client.teachers.encoding import MEDIA_TYPES, encode_image
from distill_client.teachers.transport import HttpRequest


class RequestMaker:
    """Keys are read from the environment once, and are in no text that this shows. Raises ConfigError."""

    def __init__(self, file: CustomHttpFile) -> None:
        self._file = file
        self._keys = [(secret, secret.read()) for secret in file.secrets]

    def make(self, images_nhwc: NDArray[np.uint8], idempotency_key: str) -> HttpRequest:
        """One call for uint8 images_nhwc."""
        shape = self._file.request
        media_type = MEDIA_TYPES[shape.encoding]
        values = self._file.filled({"idempotency_key": idempotency_key, "media_type": media_type})
        files = [encode_image(image_hwc, shape.encoding) for image_hwc in images_nhwc]
        content_type, content = self._body(files, values)
        headers = {"Accept": "application/json", "Content-Type": content_type}
        given = {name: fill_text(text, values) for name, text in shape.headers.items()}
        given |= {secret.header: secret.prefix + key for secret, key in self._keys if secret.header is not None}
        replaced = {name.lower() for name in given}
        headers = {name: text for name, text in headers.items() if name.lower() not in replaced} | given
        return HttpRequest(shape.method, self._url(values), headers, content)

    def _url(self, values: dict[str, object]) -> str:
        query = [(name, fill_text(text, values)) for name, text in self._file.request.query.items()]
        query += [(secret.query, secret.prefix + key) for secret, key in self._keys if secret.query is not None]
        address = self._file.address
        if not query:
            return address
        return (
            address + ("&" if "?" in address else "?") + urllib.parse.urlencode(query, quote_via=urllib.parse.quote)
        )

    def _body(self, files: Sequence[bytes], values: dict[str, object]) -> tuple[str, bytes]:
        shape = self._file.request
        if shape.body == "file":
            return MEDIA_TYPES[shape.encoding], files[0]
        if shape.body == "base64":
            return "application/x-www-form-urlencoded", base64.b64encode(files[0])
        keys = {secret.field: secret.prefix + key for secret, key in self._keys if secret.field is not None}
        if shape.body == "multipart":
            fields = {name: fill_text(text, values) for name, text in shape.fields.items()} | keys
            parts = [(shape.file_field, f"image.{shape.encoding}", file) for file in files]
            return _multipart(fields, parts, MEDIA_TYPES[shape.encoding])
        if shape.takes_several:
            each = [fill(shape.each, values | self._of_image(file)) for file in files]
            document = fill(shape.template, values | {"images": each})
        else:
            document = fill(shape.template, values | self._of_image(files[0]))
        if isinstance(document, dict):
            document = document | keys
        return "application/json", json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode("utf-8")

    def _of_image(self, file: bytes) -> dict[str, object]:
        text = base64.b64encode(file).decode("ascii")
        return {
            "image_base64": text,
            "image_data_uri": f"data:{MEDIA_TYPES[self._file.request.encoding]};base64,{text}",
        }


def _multipart(fields: dict[str, str], files: Sequence[tuple[str, str, bytes]], media_type: str) -> tuple[str, bytes]:
    """Texts, then files (field, name, content), as multipart/form-data."""
    parts = [
        (f'form-data; name="{name}"', "text/plain; charset=utf-8", text.encode()) for name, text in fields.items()
    ]
    parts += [
        (f'form-data; name="{field}"; filename="{name}"', media_type, content) for field, name, content in files
    ]
    # The digest of all parts stands in none of them.
    boundary = hashlib.sha256(b"".join(content for _, _, content in parts)).hexdigest()
    lines = b"".join(
        f"--{boundary}\r\nContent-Disposition: {what}\r\nContent-Type: {kind}\r\n\r\n".encode() + content + b"\r\n"
        for what, kind, content in parts
    )
    return f"multipart/form-data; boundary={boundary}", lines + f"--{boundary}--\r\n".encode()
