"""What one protocol of other people's servers is, for the client: requests made of images, and replies read."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from distill_client.teachers.protocol import Answer, Capabilities
from distill_client.teachers.transport import HttpReply, HttpRequest


class Adapter(Protocol):
    """Sends nothing itself, so that every adapter is asked with the same manners. Used from several threads."""

    capabilities: Capabilities
    """Its ``budget`` is what the teacher's file allows."""

    def first_look(self) -> HttpRequest | None:
        """A free request by which the teacher shows that it is there, and is what the file says; None for none."""
        ...

    def read_first_look(self, reply: HttpReply) -> None:
        """Raises TeacherProtocolError or ConfigError when it is not what the teacher's file says."""
        ...

    def request(self, images_nhwc: NDArray[np.uint8], idempotency_key: str) -> HttpRequest:
        """One call for uint8 images_nhwc, at most ``images_per_request_max`` of them."""
        ...

    def read(self, reply: HttpReply, images: int) -> Answer:
        """The answer to ``images`` images, from a reply of any status; ``is_counted`` is false.

        Raises Retryable (with ``pressure`` and ``charged``), TeacherRefused, TeacherProtocolError.
        """
        ...
