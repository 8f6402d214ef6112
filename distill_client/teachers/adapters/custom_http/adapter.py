"""The adapter of teachers that a file describes wholly."""

import numpy as np
from numpy.typing import NDArray

from distill_client.teachers.adapters.custom_http.file import CustomHttpFile
from distill_client.teachers.adapters.custom_http.replies import read_answer
from distill_client.teachers.adapters.custom_http.requests import RequestMaker
from distill_client.teachers.encoding import base64_bytes, file_bytes_max, images_that_fit
from distill_client.teachers.manners.signals import failure_of, signal_of
from distill_client.teachers.protocol import Answer, Capabilities
from distill_client.teachers.transport import HttpReply, HttpRequest


class CustomHttpAdapter:
    """Satisfies ``Adapter``. Raises ConfigError when a key that the file names is not in the environment."""

    def __init__(self, file: CustomHttpFile) -> None:
        self._file = file
        self._maker = RequestMaker(file)
        size = file_bytes_max(file.sent_hwc)
        is_base64 = file.request.body in ("json", "base64")
        per_call = images_that_fit(file, base64_bytes(size) if is_base64 else size)
        self.capabilities: Capabilities = file.capabilities(file.request.encoding, images_per_request_max=per_call)

    def first_look(self) -> HttpRequest | None:
        """See Adapter: nothing is known to be free."""
        return None

    def read_first_look(self, reply: HttpReply) -> None:
        """See Adapter."""

    def request(self, images_nhwc: NDArray[np.uint8], idempotency_key: str) -> HttpRequest:
        """See Adapter."""
        return self._maker.make(images_nhwc, idempotency_key)

    def read(self, reply: HttpReply, images: int) -> Answer:
        """See Adapter; a reply of success may be a refusal, by its signal."""
        if (signal := signal_of(reply, self._file.signals)) is not None:
            raise failure_of(reply, found=signal)
        return read_answer(reply, images, self._file)
