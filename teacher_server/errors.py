"""Every expected failure of the server: refusals that go out on the wire, and mistakes of the operator."""

from shared.wire.error_codes import ErrorCode


class Refusal(Exception):
    """A request is not answered and nothing is charged; rendered as problem+json.

    ``members`` become members of the problem document, such as ``granted``, ``spent`` and ``asked``;
    ``retry_after_s`` is also the header Retry-After. ``headers`` are sent with it as they are.
    """

    def __init__(self, code: ErrorCode, detail: str, **members: str | int | None) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.members = {name: value for name, value in members.items() if value is not None}
        self.headers: dict[str, str] = {}


class OperatorError(Exception):
    """The owner asked for something that cannot be done; the command line prints it and ends with 2."""
