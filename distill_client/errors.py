"""Everything that can stop a run, and the exit code a script sees.

DistillError
├── ConfigError               exit 2: the key, the value and what is allowed
├── TeacherError
│   ├── TeacherRefused        exit 3: a refusal that asking again cannot change
│   │   ├── BudgetExhausted   exit 3: carries granted and spent; the run can be resumed after a grant
│   │   └── TeacherChanged    exit 8: the version, or the policy, that the run is bought from is gone
│   ├── TeacherUnavailable    exit 4: no answer after bounded retries; the run can be resumed
│   └── TeacherProtocolError  exit 5: the answer does not fit the contract
│       └── ReceiptFault      exit 5: its receipt does not prove what was asked and got
├── RunStoreError             exit 6: an artefact is missing, torn, or from another configuration
│   └── OtherDevice           exit 6: a training was saved on another kind of device
├── AuditMismatch             exit 7: the two sides do not agree on what was bought
├── TeacherUnfit              exit 9: `distill teacher check` has found that a run cannot use this teacher
└── PoolUnfit                 exit 10: the answers say that the pool does not fit, and --strict-pool was given
"""

import typing
from pathlib import Path


class DistillError(Exception):
    """Base of every expected failure; its text is meant for the person at the terminal."""

    exit_code = 1


class ConfigError(DistillError):
    """The configuration, or an image set it names, cannot be used."""

    exit_code = 2


Charged = typing.Literal["yes", "no", "unknown"]


class TeacherError(DistillError):
    """The teacher did not answer as hoped; ``charged`` is whether what was asked may have been paid for."""

    exit_code = 3
    charged: Charged = "unknown"


class TeacherRefused(TeacherError):
    """The teacher said no, and would say it again; few charge for that."""

    def __init__(self, message: str, *, code: str = "", charged: Charged = "no") -> None:
        super().__init__(message)
        self.code = code
        self.charged = charged


class BudgetExhausted(TeacherRefused):
    """The key's budget does not cover the request."""

    def __init__(self, message: str, *, granted: int, spent: int) -> None:
        super().__init__(message, code="budget_exhausted")
        self.granted = granted
        self.spent = spent


class TeacherChanged(TeacherRefused):
    """The teacher's owner has put another version, or disclosure, in the place of the run's."""

    exit_code = 8


class TeacherUnavailable(TeacherError):
    """No usable answer within the deadline; every recorded batch can be asked for again at no second charge.

    ``charged`` is "unknown" where a request may have been charged before it was lost; a replay finds out.
    """

    exit_code = 4

    def __init__(self, message: str, *, charged: Charged = "no") -> None:
        super().__init__(message)
        self.charged = charged


class TeacherProtocolError(TeacherError):
    """The answer does not fit the contract."""

    exit_code = 5


class ReceiptFault(TeacherProtocolError):
    """An answer's receipt, or the key that it is to be verified with, is not what it must be."""


class RunStoreError(DistillError):
    """The run folder does not hold what it should."""

    exit_code = 6


class OtherDevice(RunStoreError):
    """A training was begun on another kind of device, which draws other random numbers: it is not continued here."""

    def __init__(self, checkpoint: Path, *, saved_on: str, here: str) -> None:
        super().__init__(
            f"{checkpoint}: this training was begun on {saved_on}, and the device is now {here}; resume it with "
            f"--device {saved_on}, or remove the file to train anew on {here}"
        )


class AuditMismatch(DistillError):
    """Own rows and the teacher's log differ."""

    exit_code = 7


class TeacherUnfit(DistillError):
    """A teacher was looked at, and is not what a run needs."""

    exit_code = 9


class PoolUnfit(DistillError):
    """The pool was bought, its answers say that it does not fit, and the run was told to stop then."""

    exit_code = 10
