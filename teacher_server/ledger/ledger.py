"""What the rest of the server asks of the ledger, in one object that is handed around."""

from collections.abc import Callable

from shared.wire.contracts import Event, SigningKeys
from teacher_server.errors import Refusal
from teacher_server.ledger import noise_secrets
from teacher_server.ledger.chain import refusals, signing
from teacher_server.ledger.chain.events import SignedEvent, last_teacher_digest, read_events
from teacher_server.ledger.charging import answers
from teacher_server.ledger.charging import charge as charging
from teacher_server.ledger.charging.answers import Answered, Expired, Question
from teacher_server.ledger.charging.charge import Computed
from teacher_server.ledger.databases.database import Database
from teacher_server.ledger.keys.authentication import authenticate
from teacher_server.ledger.keys.issuing import Key
from teacher_server.ledger.keys.limits import Standing, read_standing, refuse_by_limits, reread


class Ledger:
    """Keys, charges and histories of one database; every method may be called from any thread."""

    def __init__(self, database: Database, *, charged: Callable[[Event], None] = lambda _: None) -> None:
        """``charged`` is told of every new charge; it must return at once."""
        self._database = database
        self._charged = charged

    def authenticate(self, secret: str) -> Key:
        """See ``authentication.authenticate``."""
        return authenticate(self._database, secret)

    def find_answer(self, question: Question) -> Answered | Expired | None:
        """See ``answers.find_answer``."""
        return answers.find_answer(self._database, question)

    def is_answered(self, key: Key, idempotency_key: str) -> bool:
        """See ``answers.is_answered``."""
        return answers.is_answered(self._database, key, idempotency_key)

    def charge(self, question: Question, computed: Computed, *, request_id: str) -> Answered | Expired:
        """See ``charging.charge``."""
        answered = charging.charge(self._database, question, computed, request_id=request_id)
        if isinstance(answered, Answered) and not answered.is_replay:
            self._charged(answered.event)
        return answered

    def require_room(self, key: Key, images: int, *, ahead: int) -> None:
        """Raise Refusal, as ``limits.refuse_by_limits``, where a charge would be refused; before it is worked for."""
        with self._database.reading() as connection:
            key = reread(connection, key)
            refusal = refuse_by_limits(connection, key, read_standing(connection, key), images, ahead=ahead)
        if refusal:
            raise refusal

    def standing(self, key: Key) -> Standing:
        """What its limits leave a key now."""
        with self._database.reading() as connection:
            return read_standing(connection, reread(connection, key))

    def note_refusal(self, key: Key, refusal: Refusal, *, images: int, teacher: str) -> None:
        """See ``refusals.note_refusal``."""
        refusals.note_refusal(self._database, key, refusal, images=images, teacher=teacher)

    def history(self, key: Key, *, after: int, limit: int) -> list[SignedEvent]:
        """One key's events with a sequence greater than ``after``, oldest first."""
        with self._database.reading() as connection:
            return read_events(connection, key.id, after=after, limit=limit)

    def last_teacher_digest(self, teacher: str, version: str) -> str:
        """The digest of the bundle that last answered under this name and version; empty when none did."""
        with self._database.reading() as connection:
            return last_teacher_digest(connection, teacher, version)

    def noise_secret(self, teacher: str, version: str) -> bytes:
        """See ``noise_secrets.noise_secret``."""
        return noise_secrets.noise_secret(self._database, teacher, version)

    def find_noise_secret(self, teacher: str, version: str) -> bytes | None:
        """See ``noise_secrets.find_noise_secret``."""
        return noise_secrets.find_noise_secret(self._database, teacher, version)

    def signing_keys(self) -> SigningKeys:
        """Every public key that this ledger ever signed with."""
        with self._database.reading() as connection:
            return SigningKeys(ledger=signing.ledger_name(connection), keys=signing.list_signing_keys(connection))

    def check_writable(self) -> None:
        """Raise Refusal(ledger_unavailable) when no write transaction can be begun."""
        self._database.check_writable()

    def close(self) -> None:
        """Close the database."""
        self._database.close()
