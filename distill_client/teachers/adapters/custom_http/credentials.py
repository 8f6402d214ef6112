"""The keys that a described teacher wants: where each goes, never what it is; and AWS' signatures."""

import os
import re
from typing import Literal, Self

from pydantic import Field, model_validator

from distill_client.config import Section
from distill_client.errors import ConfigError
from distill_client.teachers.transport import HttpRequest, Sign

_SECRET_PATTERN = re.compile(r"[\x21-\x7e]+")
_SECRET_CHARACTERS_MIN = 8  # fewer would be struck out of replies where they are no secret
HEADER_NAME = r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$"


class Secret(Section):
    """One key, by the environment variable that holds it, and the one place where it is sent."""

    variable: str = Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", description="the environment variable")
    header: str | None = Field(None, pattern=HEADER_NAME, description="the header that carries it")
    query: str | None = Field(None, min_length=1, description="the query parameter that carries it")
    field: str | None = Field(None, min_length=1, description="the field of the JSON or multipart body")
    prefix: str = Field("", pattern=r"^[\x20-\x7e]*$", description='before it in the header, such as "Bearer "')

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if sum(place is not None for place in (self.header, self.query, self.field)) != 1:
            raise ValueError(f"give exactly one of header, query and field, for the key in {self.variable}")
        return self

    def read(self) -> str:
        """The key, from the environment. Raises ConfigError."""
        secret = os.environ.get(self.variable, "")
        if not _SECRET_PATTERN.fullmatch(secret) or len(secret) < _SECRET_CHARACTERS_MIN:
            raise ConfigError(
                f"{self.variable}, which secrets names, is not set, is shorter than {_SECRET_CHARACTERS_MIN} "
                "characters, or holds spaces or line breaks; put the teacher's key into it"
            )
        return secret


class Aws(Section):
    """Which of AWS' services is asked, for its signature."""

    service: Literal["rekognition", "sagemaker"] | str = Field(min_length=1, description="the signing name")
    region: str = Field(pattern=r"^[a-z]{2}(-[a-z]+)+-[0-9]$", description="such as eu-central-1")


def aws_signer(aws: Aws) -> Sign:
    """Signs requests (SigV4) with the credentials that botocore finds: environment, profile, the machine's role.

    Raises ConfigError when botocore is not installed, or finds none.
    """
    try:
        from botocore.auth import SigV4Auth
        from botocore.awsrequest import AWSRequest
        from botocore.exceptions import BotoCoreError
        from botocore.session import get_session
    except ImportError as error:
        raise ConfigError(
            "auth is 'aws-sigv4', which needs botocore: install the client with its extra `aws` "
            "(pip install 'blackbox-distillation[client,aws]')"
        ) from error
    try:
        credentials = get_session().get_credentials()
    except BotoCoreError as error:
        raise ConfigError(f"auth is 'aws-sigv4', and AWS credentials cannot be read: {error}") from error
    if credentials is None:
        raise ConfigError(
            "auth is 'aws-sigv4', and no AWS credentials were found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY "
            "(and AWS_SESSION_TOKEN), or AWS_PROFILE"
        )

    def sign(request: HttpRequest) -> HttpRequest:
        frozen = credentials.get_frozen_credentials()  # a role's are renewed by then
        unsigned = AWSRequest(request.method, request.url, headers=dict(request.headers), data=request.content)
        SigV4Auth(frozen, aws.service, aws.region).add_auth(unsigned)
        return HttpRequest(request.method, request.url, dict(unsigned.headers.items()), request.content)

    return sign
