"""Lane keys: each lane (session × link × direction) seals with a key of its own.

HKDF-Expand of RFC 5869 over BLAKE2s, the hash of the handshake whose secret it expands, so that the
protocol rests on one hash only. The info is "bondvpn lane" and the lane's id as 32 bits, big-endian.
"""

from typing import Final

from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import BLAKE2s
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from bondvpn.wire.capabilities import AES_256_GCM, CHACHA20_POLY1305

LANE_KEY_LEN: Final = 32
_INFO: Final = b"bondvpn lane"


def lane_key(secret: bytes, lane: int) -> bytes:
    """The 32-byte key of a lane under one direction's session secret.

    The caller never asks for the same lane twice in a session but to seal and open the same lane:
    a lane's counter starts at zero. Raises OverflowError for a lane beyond 32 bits.
    """
    info = _INFO + lane.to_bytes(4, "big")
    return HKDFExpand(BLAKE2s(32), LANE_KEY_LEN, info).derive(secret)


def aead(cipher: int, key: bytes) -> AESGCM | ChaCha20Poly1305:
    """The sealer of one chosen cipher bit (`wire.capabilities`). Raises ValueError for any other."""
    if cipher == AES_256_GCM:
        return AESGCM(key)
    if cipher == CHACHA20_POLY1305:
        return ChaCha20Poly1305(key)
    raise ValueError(f"cipher {cipher} is neither AES-256-GCM nor ChaCha20-Poly1305")
