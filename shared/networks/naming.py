"""Where a network's name says that its architecture comes from; nothing is imported to find out."""

import re
from typing import Literal

Source = Literal["published", "torchvision", "timm", "own"]

_LIBRARY_NAME = re.compile(r"[A-Za-z0-9_]{1,100}")
_OWN_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def network_source(name: str) -> Source:
    """Tell published architectures, torchvision's, timm's and the user's own ``module:function`` apart.

    A name without a colon is a published one, known or not. Raises ValueError for a name of no such form.
    """
    library, colon, rest = name.partition(":")
    if not colon:
        return "published"
    if library in ("torchvision", "timm"):
        if not _LIBRARY_NAME.fullmatch(rest):
            raise ValueError(f"network is {name!r}; allowed after {library}: are letters, digits and _")
        return "torchvision" if library == "torchvision" else "timm"
    if not _OWN_NAME.fullmatch(name):
        raise ValueError(f"network is {name!r}; allowed are torchvision:NAME, timm:NAME and module:function")
    return "own"
