"""Ed25519 over events: what a ledger signs, and what anybody can verify with its public keys.

Every signature is over a line that says what is signed and then the bytes, so that one kind of signature can never
pass for another.
"""

import hashlib
from collections.abc import Iterable, Sequence

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from shared.wire.contracts import Event, Receipt, SigningKey
from shared.wire.receipts import canonical_bytes, event_hash

_EVENT_LINE = b"blackbox-distillation event\n"
_ENDORSEMENT_LINE = b"blackbox-distillation signing key\n"


def fingerprint(public_key: Ed25519PublicKey | bytes) -> str:
    """SHA-256, in hex, of the key's 32 bytes."""
    raw = public_key if isinstance(public_key, bytes) else public_key.public_bytes_raw()
    return hashlib.sha256(raw).hexdigest()


def sign_event(private_key: Ed25519PrivateKey, event: Event) -> str:
    """The signature, 128 hex digits, over an event's canonical bytes (so over its hash and all before it)."""
    return private_key.sign(_EVENT_LINE + canonical_bytes(event)).hex()


def endorse(private_key: Ed25519PrivateKey, successor: Ed25519PublicKey) -> str:
    """The old key's signature over the key that follows it."""
    return private_key.sign(_ENDORSEMENT_LINE + successor.public_bytes_raw()).hex()


def is_signed_by(public_key_hex: str, event: Event, signature_hex: str) -> bool:
    """Whether ``signature_hex`` is that key's signature over ``event``."""
    return _verifies(public_key_hex, _EVENT_LINE + canonical_bytes(event), signature_hex)


def trusted_keys(keys: Sequence[SigningKey], pinned: str) -> dict[str, str]:
    """Fingerprint to public key (hex) of ``pinned`` and every key that follows from it by endorsements.

    Empty when the pinned key is not among them. A key whose fingerprint is not its own is left out.
    """
    by_fingerprint = {key.fingerprint: key for key in keys if key.fingerprint == fingerprint_of_hex(key.public_key)}
    if pinned not in by_fingerprint:
        return {}
    trusted = {pinned: by_fingerprint[pinned].public_key}
    waiting = [key for key in by_fingerprint.values() if key.fingerprint != pinned]
    while found := [key for key in waiting if key.endorsed_by in trusted and _is_endorsed(key, trusted)]:
        trusted |= {key.fingerprint: key.public_key for key in found}
        waiting = [key for key in waiting if key.fingerprint not in trusted]
    return trusted


def receipt_faults(receipt: Receipt, trusted: dict[str, str]) -> list[str]:
    """What is wrong with a receipt, one sentence each; ``trusted`` as ``trusted_keys`` gives it."""
    name = f"receipt of event {receipt.event.sequence}"
    faults = []
    if receipt.event.hash != event_hash(receipt.event):
        faults.append(f"{name}: its content does not have its hash")
    if receipt.signing_key not in trusted:
        faults.append(f"{name}: signed by {receipt.signing_key[:16]}, which is no key of this ledger")
    elif not is_signed_by(trusted[receipt.signing_key], receipt.event, receipt.signature):
        faults.append(f"{name}: forged, the signature is not that of {receipt.signing_key[:16]}")
    return faults


def fingerprint_of_hex(public_key_hex: str) -> str:
    """As ``fingerprint``, of a public key in hex; an empty string for what is none."""
    try:
        return fingerprint(bytes.fromhex(public_key_hex))
    except ValueError:
        return ""


def find_key(keys: Iterable[SigningKey], wanted: str) -> SigningKey | None:
    """The key with that fingerprint."""
    return next((key for key in keys if key.fingerprint == wanted), None)


def _is_endorsed(key: SigningKey, trusted: dict[str, str]) -> bool:
    return _verifies(trusted[key.endorsed_by], _ENDORSEMENT_LINE + bytes.fromhex(key.public_key), key.endorsement)


def _verifies(public_key_hex: str, signed: bytes, signature_hex: str) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(public_key_hex)).verify(bytes.fromhex(signature_hex), signed)
    except (InvalidSignature, ValueError):
        return False
    return True
