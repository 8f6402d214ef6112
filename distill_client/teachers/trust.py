"""Whose certificates the client believes: the system's authorities, or those of one file."""

import os
import ssl

from distill_client.errors import ConfigError

CA_FILE_VARIABLE = "DISTILL_CA_FILE"


def trusted_authorities() -> ssl.SSLContext | None:
    """With ``DISTILL_CA_FILE`` the authorities in that PEM file and no others; None for the system's.

    Raises ConfigError for a file that holds none.
    """
    file = os.environ.get(CA_FILE_VARIABLE)
    if not file:
        return None
    try:
        return ssl.create_default_context(cafile=file)
    except OSError as error:  # ssl.SSLError is one
        raise ConfigError(
            f"{CA_FILE_VARIABLE} is {file!r}, which is not a PEM file of certificates: {error.strerror or error}"
        ) from error
