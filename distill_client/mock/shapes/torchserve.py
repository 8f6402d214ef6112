"""TorchServe's ``/predictions``: one raw image file, the default handler's five best classes."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from distill_client.mock.shapes.shape import NAME, Reply, Request, Shape

_PATH = f"/predictions/{NAME}"
_TOP = 5


class TorchServeShape(Shape):
    """One image a call."""

    images_per_call_max = 1

    def look(self, path: str) -> Reply | None:
        """See Shape."""
        return Reply.of({"status": "Healthy"}) if path == "/ping" else None

    def takes(self, path: str) -> bool:
        """See Shape."""
        return path == _PATH

    def read(self, request: Request) -> NDArray[np.uint8]:
        """See Shape."""
        return self.decoded(request.content)[np.newaxis]

    def render(self, request: Request, probabilities_nk: NDArray[np.float32], failed: Sequence[int]) -> Reply:
        """See Shape."""
        return Reply.of(dict(self.ranked(probabilities_nk[0])[:_TOP]))

    def refuse(self, status: int, message: str) -> Reply:
        """See Shape."""
        return Reply.of({"code": status, "type": "MockException", "message": message}, status)

    def teacher_keys(self, url: str) -> str:
        """See Shape."""
        disclosed = f'"top-k:{_TOP}"' if len(self.mocked.classes) > _TOP else '"probabilities"'
        return f'kind = "torchserve"\nurl = "{url}"\nmodel = "{NAME}"\nanswers = {disclosed}\n'
