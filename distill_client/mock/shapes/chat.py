"""OpenAI's chat completions with an image: the class's name, as JSON where a schema is asked for."""

import json
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from distill_client.mock.shapes.shape import NAME, Reply, Request, Shape, Unreadable

_PATH = "/v1/chat/completions"
_KINDS = {429: ("rate_limit_error", "rate_limit_exceeded"), 503: ("server_error", "overloaded")}


class ChatShape(Shape):
    """One image a call."""

    images_per_call_max = 1

    def takes(self, path: str) -> bool:
        """See Shape."""
        return path == _PATH

    def read(self, request: Request) -> NDArray[np.uint8]:
        """See Shape."""
        try:
            (message,) = request.json()["messages"]
            (url,) = [part["image_url"]["url"] for part in message["content"] if part["type"] == "image_url"]
        except (KeyError, TypeError, ValueError) as error:
            raise Unreadable("expected one message with one image_url") from error
        head, _, content = str(url).partition(",")
        if not head.startswith("data:image/") or not head.endswith(";base64"):
            raise Unreadable("image_url is no data URI in base64")
        return self.decoded_base64(content)[np.newaxis]

    def render(self, request: Request, probabilities_nk: NDArray[np.float32], failed: Sequence[int]) -> Reply:
        """See Shape."""
        name = self.ranked(probabilities_nk[0])[0][0]
        asked = request.json()
        wanted = asked.get("response_format")
        text = json.dumps({"class": name}) if isinstance(wanted, dict) else name
        message = {"role": "assistant", "content": text, "refusal": None}
        return Reply.of(
            {
                "id": "chatcmpl-mock",
                "object": "chat.completion",
                "created": 0,
                "model": str(asked.get("model", NAME)),
                "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 100, "completion_tokens": 5, "total_tokens": 105},
            }
        )

    def refuse(self, status: int, message: str) -> Reply:
        """See Shape."""
        kind, code = _KINDS.get(status, ("invalid_request_error", "invalid_request"))
        return Reply.of({"error": {"message": message, "type": kind, "param": None, "code": code}}, status)

    def teacher_keys(self, url: str) -> str:
        """See Shape."""
        return f'kind = "openai-chat"\nurl = "{url}/v1"\nmodel = "{NAME}"\nanswers = "label"\n'
