"""The pure Noise state machine: published vectors, an independent implementation, forgeries."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from noise.connection import Keypair, NoiseConnection

from bondvpn.noise.ikpsk2 import (
    AESGCM_SUITE,
    CHACHAPOLY,
    Initiator,
    Opened,
    Secrets,
    Suite,
    open_message_1,
    start,
)

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "noise-ikpsk2.json").read_text())["vectors"]
SUITES = {suite.name.decode(): suite for suite in (CHACHAPOLY, AESGCM_SUITE)}
NONCES = {CHACHAPOLY: struct.Struct("<4xQ"), AESGCM_SUITE: struct.Struct(">4xQ")}  # Noise, section 12

INITIATOR_STATIC = bytes(range(1, 33))
RESPONDER_STATIC = bytes(range(33, 65))
INITIATOR_EPHEMERAL = bytes(range(65, 97))
RESPONDER_EPHEMERAL = bytes(range(97, 129))
PSK = bytes(range(129, 161))
PROLOGUE = b"prologue"

# Every u-coordinate below 2^255 whose order divides the cofactor, and the same taken modulo 2^255 - 19.
LOW_ORDER = [
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
]

both_suites = pytest.mark.parametrize("suite", SUITES.values(), ids=SUITES.keys())


def public(private: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def begin(suite: Suite, *, payload: bytes = b"", psk: bytes = PSK, responder: bytes = b"") -> Initiator:
    responder = responder or public(RESPONDER_STATIC)
    return Initiator(
        start(suite, PROLOGUE, responder),
        X25519PrivateKey.from_private_bytes(INITIATOR_STATIC),
        X25519PublicKey.from_public_bytes(responder),
        psk,
        ephemeral=INITIATOR_EPHEMERAL,
        payload=payload,
    )


def open_at_responder(suite: Suite, message: bytes) -> Opened | None:
    static = X25519PrivateKey.from_private_bytes(RESPONDER_STATIC)
    return open_message_1(start(suite, PROLOGUE, public(RESPONDER_STATIC)), static, message)


def opened_at_responder(suite: Suite, message: bytes) -> Opened:
    opened = open_at_responder(suite, message)
    assert opened is not None
    return opened


# -- vectors ----------------------------------------------------------------------------------
def test_vectors_cover_both_suites() -> None:
    assert {vector["protocol_name"] for vector in VECTORS} == set(SUITES)


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: str(vector["protocol_name"]))
def test_published_vector(vector: dict[str, Any]) -> None:
    def field(name: str) -> bytes:
        return bytes.fromhex(vector[name])

    suite = SUITES[vector["protocol_name"]]
    prologue = field("init_prologue")
    psk = bytes.fromhex(vector["init_psks"][0])
    messages = [(bytes.fromhex(m["payload"]), bytes.fromhex(m["ciphertext"])) for m in vector["messages"]]
    (payload_1, message_1), (payload_2, message_2), *transport = messages

    initiator = Initiator(
        start(suite, prologue, field("init_remote_static")),
        X25519PrivateKey.from_private_bytes(field("init_static")),
        X25519PublicKey.from_public_bytes(field("init_remote_static")),
        psk,
        ephemeral=field("init_ephemeral"),
        payload=payload_1,
    )
    assert initiator.message == message_1

    responder_static = X25519PrivateKey.from_private_bytes(field("resp_static"))
    responder_start = start(suite, prologue, responder_static.public_key().public_bytes_raw())
    opened = open_message_1(responder_start, responder_static, message_1)
    assert opened is not None
    assert opened.payload == payload_1
    assert opened.remote_static == public(field("init_static"))

    response, secrets = opened.respond(psk, ephemeral=field("resp_ephemeral"), payload=payload_2)
    assert response == message_2
    assert secrets.handshake_hash == field("handshake_hash")

    finished = initiator.read(message_2)
    assert finished is not None
    assert finished == (payload_2, secrets)

    keys = (secrets.initiator_to_responder, secrets.responder_to_initiator)
    assert len(transport) == 4
    for number, (payload, ciphertext) in enumerate(transport):
        nonce = NONCES[suite].pack(number // 2)
        assert suite.aead(keys[number % 2]).encrypt(nonce, payload, b"") == ciphertext


# -- an independent implementation ------------------------------------------------------------
def independent(suite: Suite, *, initiator: bool) -> NoiseConnection:
    other = NoiseConnection.from_name(suite.name)
    other.set_psks(psk=PSK)
    other.set_prologue(PROLOGUE)
    if initiator:
        other.set_as_initiator()
        other.set_keypair_from_private_bytes(Keypair.STATIC, INITIATOR_STATIC)
        other.set_keypair_from_public_bytes(Keypair.REMOTE_STATIC, public(RESPONDER_STATIC))
    else:
        other.set_as_responder()
        other.set_keypair_from_private_bytes(Keypair.STATIC, RESPONDER_STATIC)
    other.start_handshake()
    return other


def assert_transport(suite: Suite, secrets: Secrets, other: NoiseConnection, *, initiator: bool) -> None:
    """`other` (in the role said) and we understand each other, three messages each way."""
    sends, receives = secrets.initiator_to_responder, secrets.responder_to_initiator
    if not initiator:
        sends, receives = receives, sends
    for number in range(3):
        nonce = NONCES[suite].pack(number)
        assert suite.aead(sends).decrypt(nonce, other.encrypt(b"there"), b"") == b"there"
        assert other.decrypt(suite.aead(receives).encrypt(nonce, b"back", b"")) == b"back"
    assert other.get_handshake_hash() == secrets.handshake_hash


@both_suites
@pytest.mark.parametrize("payload", [b"", b"capabilities", bytes(300)], ids=len)
def test_we_initiate_to_an_independent_responder(suite: Suite, payload: bytes) -> None:
    other = independent(suite, initiator=False)
    initiator = begin(suite, payload=payload)
    assert other.read_message(initiator.message) == payload
    finished = initiator.read(bytes(other.write_message(payload[::-1])))
    assert finished is not None
    assert finished.payload == payload[::-1]
    assert_transport(suite, finished.secrets, other, initiator=False)


@both_suites
@pytest.mark.parametrize("payload", [b"", b"capabilities", bytes(300)], ids=len)
def test_we_respond_to_an_independent_initiator(suite: Suite, payload: bytes) -> None:
    other = independent(suite, initiator=True)
    opened = opened_at_responder(suite, bytes(other.write_message(payload)))
    assert opened.payload == payload
    message, secrets = opened.respond(PSK, ephemeral=RESPONDER_EPHEMERAL, payload=payload[::-1])
    assert other.read_message(message) == payload[::-1]
    assert_transport(suite, secrets, other, initiator=True)


# -- what is not genuine ----------------------------------------------------------------------
@both_suites
def test_forgeries_of_message_2_leave_the_state_as_it_was(suite: Suite) -> None:
    initiator = begin(suite)
    opened = opened_at_responder(suite, initiator.message)
    genuine, secrets = opened.respond(PSK, ephemeral=RESPONDER_EPHEMERAL, payload=b"yes")
    for length in range(len(genuine)):
        assert initiator.read(genuine[:length]) is None
    for place in range(len(genuine)):
        forged = bytearray(genuine)
        forged[place] ^= 1
        assert initiator.read(bytes(forged)) is None
    assert initiator.read(genuine) == (b"yes", secrets)


@both_suites
def test_forgeries_of_message_1(suite: Suite) -> None:
    genuine = begin(suite, payload=b"hello").message
    for length in range(len(genuine)):
        assert open_at_responder(suite, genuine[:length]) is None
    for place in range(len(genuine)):
        forged = bytearray(genuine)
        forged[place] ^= 1
        assert open_at_responder(suite, bytes(forged)) is None
    assert open_at_responder(suite, genuine) is not None


@both_suites
def test_another_prologue(suite: Suite) -> None:
    static = X25519PrivateKey.from_private_bytes(RESPONDER_STATIC)
    state = start(suite, b"another", public(RESPONDER_STATIC))
    assert open_message_1(state, static, begin(suite).message) is None


def test_another_cipher() -> None:
    assert open_at_responder(AESGCM_SUITE, begin(CHACHAPOLY).message) is None


@both_suites
def test_another_preshared_key(suite: Suite) -> None:
    initiator = begin(suite)
    message, _ = opened_at_responder(suite, initiator.message).respond(
        bytes(32), ephemeral=RESPONDER_EPHEMERAL, payload=b""
    )
    assert initiator.read(message) is None


@both_suites
def test_static_key_shown_by_someone_who_does_not_own_it(suite: Suite) -> None:
    """Sealed properly but for ss, which needs the private key of who is shown."""
    thief = X25519PrivateKey.from_private_bytes(RESPONDER_EPHEMERAL)
    ephemeral = X25519PrivateKey.from_private_bytes(INITIATOR_EPHEMERAL)
    responder = X25519PublicKey.from_public_bytes(public(RESPONDER_STATIC))
    for shown, owned in ((INITIATOR_STATIC, False), (RESPONDER_EPHEMERAL, True)):
        state = start(suite, PROLOGUE, public(RESPONDER_STATIC)).mix_ephemeral(public(INITIATOR_EPHEMERAL))
        state, sealed_static = state.mix_key(ephemeral.exchange(responder)).encrypt(public(shown))
        _, sealed_payload = state.mix_key(thief.exchange(responder)).encrypt(b"")
        message = public(INITIATOR_EPHEMERAL) + sealed_static + sealed_payload
        assert (open_at_responder(suite, message) is not None) is owned


@pytest.mark.parametrize("point", LOW_ORDER)
def test_low_order_ephemeral_of_the_initiator(point: str) -> None:
    forged = bytes.fromhex(point) + begin(CHACHAPOLY).message[32:]
    assert open_at_responder(CHACHAPOLY, forged) is None


@pytest.mark.parametrize("point", LOW_ORDER)
def test_low_order_static_of_the_initiator(point: str) -> None:
    """Sealed properly by someone who knows the responder's public key: only the ss secret gives it away."""
    ephemeral = X25519PrivateKey.from_private_bytes(INITIATOR_EPHEMERAL)
    responder = X25519PublicKey.from_public_bytes(public(RESPONDER_STATIC))
    state = start(CHACHAPOLY, PROLOGUE, public(RESPONDER_STATIC)).mix_ephemeral(public(INITIATOR_EPHEMERAL))
    state, sealed_static = state.mix_key(ephemeral.exchange(responder)).encrypt(bytes.fromhex(point))
    _, sealed_payload = state.mix_key(bytes(32)).encrypt(b"")
    message = public(INITIATOR_EPHEMERAL) + sealed_static + sealed_payload
    assert open_at_responder(CHACHAPOLY, message) is None


@pytest.mark.parametrize("point", LOW_ORDER)
def test_low_order_ephemeral_of_the_responder(point: str) -> None:
    """Sealed as by someone who counts on both secrets being zero."""
    initiator = begin(CHACHAPOLY)
    opened = opened_at_responder(CHACHAPOLY, initiator.message)
    state = (
        opened.state.mix_ephemeral(bytes.fromhex(point)).mix_key(bytes(32)).mix_key(bytes(32)).mix_psk(PSK)
    )
    _, sealed = state.encrypt(b"")
    assert initiator.read(bytes.fromhex(point) + sealed) is None


@pytest.mark.parametrize("point", LOW_ORDER)
def test_low_order_responder_is_a_local_fault(point: str) -> None:
    with pytest.raises(ValueError, match="shared key"):
        begin(CHACHAPOLY, responder=bytes.fromhex(point))


@pytest.mark.parametrize("length", [0, 31, 33])
def test_preshared_key_of_wrong_length_is_a_local_fault(length: int) -> None:
    with pytest.raises(ValueError, match="preshared key"):
        begin(CHACHAPOLY, psk=bytes(length))
    with pytest.raises(ValueError, match="preshared key"):
        opened_at_responder(CHACHAPOLY, begin(CHACHAPOLY).message).respond(
            bytes(length), ephemeral=RESPONDER_EPHEMERAL, payload=b""
        )
