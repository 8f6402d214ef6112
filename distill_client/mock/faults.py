"""What goes wrong with a request, and how often: drawn by a seed, so that a run of faults can be had again."""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from distill_client.errors import ConfigError

FAULTS: Mapping[str, str] = MappingProxyType(
    {
        "timeouts-before-charge": "no reply, and nothing is charged",
        "timeouts-after-charge": "charged, and then no reply",
        "throttle": "429, nothing is charged",
        "overload": "503, nothing is charged",
        "cut": "charged, and the reply breaks off half way",
        "garbage": "charged, and the reply is no answer",
        "slow": "charged and answered, late",
        "partial": "some images of a call have an error instead of an answer, and are not charged",
    }
)


@dataclass(frozen=True)
class Faults:
    """The share of requests that each fault befalls; one request has at most one."""

    shares: Mapping[str, float]
    seed: int = 0

    @classmethod
    def parse(cls, text: str, seed: int) -> "Faults":
        """``timeouts-after-charge=0.05,throttle=0.2``; empty for none. Raises ConfigError."""
        shares: dict[str, float] = {}
        for part in filter(None, (part.strip() for part in text.split(","))):
            name, _, share = part.partition("=")
            if name not in FAULTS:
                raise ConfigError(f"--faults names {name!r}; allowed are {', '.join(FAULTS)}, each as NAME=SHARE")
            if name in shares:
                raise ConfigError(f"--faults names {name} twice")
            try:
                shares[name] = float(share)
            except ValueError as error:
                raise ConfigError(f"--faults: {name} is {share!r}; allowed is a share from 0 to 1") from error
            if not 0 <= shares[name] <= 1:
                raise ConfigError(f"--faults: {name} is {share}; allowed is a share from 0 to 1")
        if sum(shares.values()) > 1 + 1e-9:
            raise ConfigError(f"--faults add up to {sum(shares.values()):g}; allowed is at most 1")
        return cls(shares, seed)

    def draw(self, number: int) -> str:
        """What befalls the request that came in as ``number``; empty for nothing."""
        left = self._random(number).random()
        for name, share in self.shares.items():
            if left < share:
                return name
            left -= share
        return ""

    def draw_places(self, number: int, images: int) -> list[int]:
        """Which images of a call have an error, at least one of them."""
        rng = self._random(number)
        rng.random()
        return sorted(rng.sample(range(images), rng.randint(1, images)))

    def _random(self, number: int) -> random.Random:
        return random.Random(f"{self.seed}:{number}")  # noqa: S311 - nothing is to be kept secret by it
