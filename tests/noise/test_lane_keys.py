"""Lane keys against an HKDF-Expand written out from RFC 5869, and the choice of sealer."""

import hmac

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from bondvpn.noise.lanes import aead, lane_key
from bondvpn.wire.capabilities import AES_256_GCM, CHACHA20_POLY1305

SECRET = bytes(range(32))


@pytest.mark.parametrize("lane", [0, 1, 255, 0xFFFFFFFF])
def test_lane_key_is_one_block_of_hkdf_expand(lane: int) -> None:
    """RFC 5869, section 2.3: T(1) = HMAC(PRK, info | 0x01)."""
    info = b"bondvpn lane" + lane.to_bytes(4, "big")
    assert lane_key(SECRET, lane) == hmac.digest(SECRET, info + b"\x01", "blake2s")


def test_lane_key_is_pinned() -> None:
    expected = "e23de116500981b55a078587abe40cd6dd62a9c729a0353355fcdf7097efbfe5"
    assert lane_key(SECRET, 1).hex() == expected


def test_every_lane_and_secret_has_its_own_key() -> None:
    keys = {lane_key(secret, lane) for secret in (SECRET, SECRET[::-1]) for lane in range(256)}
    assert len(keys) == 512


@pytest.mark.parametrize("lane", [-1, 1 << 32])
def test_lane_beyond_32_bits(lane: int) -> None:
    with pytest.raises(OverflowError):
        lane_key(SECRET, lane)


@pytest.mark.parametrize(("cipher", "kind"), [(AES_256_GCM, AESGCM), (CHACHA20_POLY1305, ChaCha20Poly1305)])
def test_aead_of_a_cipher(cipher: int, kind: type[AESGCM] | type[ChaCha20Poly1305]) -> None:
    sealer = aead(cipher, SECRET)
    assert isinstance(sealer, kind)
    sealed = sealer.encrypt(bytes(12), b"text", b"header")
    assert kind(SECRET).decrypt(bytes(12), sealed, b"header") == b"text"
    with pytest.raises(InvalidTag):
        kind(SECRET).decrypt(bytes(12), sealed, b"another")


@pytest.mark.parametrize("cipher", [0, AES_256_GCM | CHACHA20_POLY1305, 4])
def test_aead_of_no_single_cipher(cipher: int) -> None:
    with pytest.raises(ValueError, match=f"cipher {cipher}"):
        aead(cipher, SECRET)
