"""Ed25519 signatures of manifests: whoever has only the bucket can make no set that is taken for ours."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lakehouse.core.errors import IntegrityError, SettingsError
from lakehouse.core.settings import Settings

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_KEY_BYTES = 32


@dataclass(frozen=True)
class Signer:
    """The private key, and the public part as text."""

    key: Ed25519PrivateKey = field(repr=False)

    @property
    def public_key(self) -> str:
        """The public part: what checks signatures, and may be known to anybody."""
        return _text(self.key.public_key().public_bytes_raw())

    def sign(self, data: bytes) -> str:
        """The signature of some bytes, as text."""
        return _text(self.key.sign(data))


def new_key() -> tuple[str, str]:
    """A new private key and its public part, as settings have them."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    return _text(key.private_bytes_raw()), Signer(key).public_key


def signer_of(settings: Settings) -> Signer:
    """The signer that the settings name. Raises :class:`SettingsError` where there is none."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    text = settings.backup_signing_key.get_secret_value()
    if not text:
        raise SettingsError(
            "there is no key to sign backups with",
            where="LAKEHOUSE_BACKUP_SIGNING_KEY",
            todo="make one with `lakehouse backup key`, set it, and keep it where the lake's loss cannot reach it",
        )
    return Signer(Ed25519PrivateKey.from_private_bytes(_key(text, "LAKEHOUSE_BACKUP_SIGNING_KEY")))


def signer_if_any(settings: Settings) -> Signer | None:
    """The signer that the settings name; None where only the public key is known, as on an auditor's machine."""
    return signer_of(settings) if settings.backup_signing_key.get_secret_value() else None


def public_key_of(settings: Settings) -> str:
    """The key that signatures are checked by: what is set, else that of the signing key."""
    if settings.backup_public_key:
        return _text(_key(settings.backup_public_key, "LAKEHOUSE_BACKUP_PUBLIC_KEY"))
    return signer_of(settings).public_key


def check_signature(
    data: bytes, signature: str, public_key: str, where: str, *, what: str = "a set's manifest"
) -> None:
    """Raise :class:`IntegrityError` unless the signature is that of these bytes, by this key."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        key = Ed25519PublicKey.from_public_bytes(_key(public_key, "LAKEHOUSE_BACKUP_PUBLIC_KEY"))
        key.verify(_decoded(signature), data)
    except (InvalidSignature, binascii.Error, ValueError):
        raise IntegrityError(
            f"{what} was not signed with our key",
            where=where,
            untouched="everything; nothing in it is trusted",
            todo="see who wrote it; with a former key, set LAKEHOUSE_BACKUP_PUBLIC_KEY to its public part",
        ) from None


def _key(text: str, name: str) -> bytes:
    try:
        raw = _decoded(text)
    except (binascii.Error, ValueError):
        raw = b""
    if len(raw) != _KEY_BYTES:
        raise SettingsError(f"{name} is no key of {_KEY_BYTES} bytes", todo="make one with `lakehouse backup key`")
    return raw


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _decoded(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
