"""The handshake's envelope: who is answered, who is dropped and under which reason."""

import hashlib
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st
from noise.connection import Keypair, NoiseConnection

from bondvpn.errors import ConfigError
from bondvpn.noise.handshake import (
    AES_256_GCM,
    CHACHA20_POLY1305,
    NO_PRESHARED_KEY,
    Established,
    Identity,
    Initiation,
    ReceivedInitiation,
    Remote,
    Secrets,
    choose_cipher,
    receive_initiation,
)
from bondvpn.noise.ikpsk2 import open_message_1
from bondvpn.noise.timestamp import tai64n
from bondvpn.stats import Drop
from bondvpn.wire.capabilities import Capabilities
from bondvpn.wire.handshake import PAYLOAD_MAX, InitiationMessage

CLIENT: Final = Identity(bytes(range(1, 33)))
SERVER: Final = Identity(bytes(range(33, 65)))
STRANGER: Final = Identity(bytes(range(65, 97)))
PSK: Final = bytes(range(97, 129))
EPHEMERAL: Final = bytes(range(129, 161))
ANSWER_EPHEMERAL: Final = bytes(range(161, 193))
TIMESTAMP: Final = tai64n(1_700_000_000.0, None)
OFFER: Final = Capabilities(1, AES_256_GCM | CHACHA20_POLY1305, 7, b"client!!", 65535, 1500).emit()
CHOICE: Final = Capabilities(1, AES_256_GCM, 7, b"server!!", 65535, 1500).emit()
LOW_ORDER: Final = [bytes(32), b"\x01" + bytes(31), b"\xec" + b"\xff" * 30 + b"\x7f"]


def initiate(
    identity: Identity = CLIENT, remote: bytes = SERVER.public, psk: bytes = PSK, payload: bytes = OFFER
) -> Initiation:
    return Initiation(
        identity, Remote(remote, psk), index=7, timestamp=TIMESTAMP, payload=payload, ephemeral=EPHEMERAL
    )


def receive(datagram: bytes) -> ReceivedInitiation:
    received = receive_initiation(SERVER, datagram)
    assert isinstance(received, ReceivedInitiation)
    return received


def answer(initiation: Initiation, psk: bytes = PSK, payload: bytes = CHOICE) -> tuple[bytes, Secrets]:
    return receive(initiation.datagram).respond(psk, index=9, payload=payload, ephemeral=ANSWER_EPHEMERAL)


def with_mac1(datagram: bytes, receiver: Identity) -> bytes:
    """The datagram under a mac1 that holds, as anyone can make it who knows the public key."""
    key = hashlib.blake2s(b"mac1----" + receiver.public).digest()
    mac1 = hashlib.blake2s(datagram[:-32], key=key, digest_size=16).digest()
    return datagram[:-32] + mac1 + datagram[-16:]


def flipped(datagram: bytes, place: int, bit: int = 0) -> bytes:
    changed = bytearray(datagram)
    changed[place] ^= 1 << bit
    return bytes(changed)


# -- the way it should go ---------------------------------------------------------------------
@pytest.mark.parametrize("psk", [PSK, NO_PRESHARED_KEY])
def test_both_sides_agree(psk: bytes) -> None:
    initiation = initiate(psk=psk)
    received = receive(initiation.datagram)
    assert received.peer_public == CLIENT.public
    assert received.peer_index == 7
    assert received.timestamp == TIMESTAMP
    assert received.payload == OFFER
    datagram, secrets = answer(initiation, psk)
    assert initiation.finish(datagram) == Established(CHOICE, 9, secrets)
    assert len(set(secrets)) == 3
    assert [len(secret) for secret in secrets] == [32, 32, 32]


def test_other_ephemerals_give_other_secrets() -> None:
    received = receive(initiate().datagram)
    _, first = received.respond(PSK, index=9, payload=CHOICE, ephemeral=ANSWER_EPHEMERAL)
    _, second = received.respond(PSK, index=9, payload=CHOICE, ephemeral=EPHEMERAL)
    assert not set(first) & set(second)


def test_mac1_is_that_of_wireguard() -> None:
    initiation = initiate()
    assert with_mac1(initiation.datagram, SERVER) == initiation.datagram
    response, _ = answer(initiation)
    assert with_mac1(response, CLIENT) == response
    assert initiation.datagram[-16:] == response[-16:] == bytes(16)


def test_datagrams_are_pinned() -> None:
    """Prologue, labels, layout and suite at once: who changes one of them breaks every deployed peer."""
    initiation = initiate()
    response, secrets = answer(initiation)
    assert (
        hashlib.sha256(initiation.datagram).hexdigest()
        == "953dbd61e29c2cdbdf51a5bddbf1ba91f8d8438654b66dbf5f1e3437b1282e9b"
    )
    assert (
        hashlib.sha256(response).hexdigest()
        == "e4a34a6ea626ab6ba1f5658df958aa5233ce5b93dccd5ba6f014188330c37d9c"
    )
    assert secrets.handshake_hash.hex() == "81df086b7b584ccf6657bd1c93b0cfa729606f50f9a69daef47d7ad6acd2a83a"


def test_noise_inside_is_what_an_independent_implementation_reads() -> None:
    initiation = initiate()
    other = NoiseConnection.from_name(b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s")
    other.set_psks(psk=PSK)
    other.set_prologue(b"bondvpn v1")
    other.set_as_responder()
    other.set_keypair_from_private_bytes(Keypair.STATIC, SERVER.private.private_bytes_raw())
    other.start_handshake()
    assert other.read_message(initiation.datagram[8:-32]) == TIMESTAMP + OFFER
    noise = bytes(other.write_message(CHOICE))
    response = b"\x02\x00\x00\x00" + b"\x00\x00\x00\x09" + b"\x00\x00\x00\x07" + noise + bytes(32)
    established = initiation.finish(with_mac1(response, CLIENT))
    assert isinstance(established, Established)
    assert (established.payload, established.peer_index) == (CHOICE, 9)
    assert established.secrets.handshake_hash == other.get_handshake_hash()


def test_neither_static_key_nor_payload_is_readable() -> None:
    datagram = initiate().datagram
    for secret in (CLIENT.public, SERVER.public, TIMESTAMP, OFFER):
        assert secret not in datagram


# -- sizes ------------------------------------------------------------------------------------
def test_default_response_is_shorter_than_its_initiation() -> None:
    initiation = initiate()
    response, _ = answer(initiation)
    assert (len(initiation.datagram), len(response)) == (166, 110)


def test_response_may_be_as_long_as_its_initiation_and_no_longer() -> None:
    initiation = initiate()
    room = len(initiation.datagram) - 92
    response, secrets = answer(initiation, payload=bytes(room))
    assert len(response) == len(initiation.datagram)
    assert initiation.finish(response) == Established(bytes(room), 9, secrets)
    with pytest.raises(ValueError, match="response of 167 bytes to an initiation of 166"):
        answer(initiation, payload=bytes(room + 1))


def test_longest_payloads() -> None:
    initiation = initiate(payload=bytes(PAYLOAD_MAX))
    response, secrets = answer(initiation, payload=bytes(PAYLOAD_MAX))
    assert initiation.finish(response) == Established(bytes(PAYLOAD_MAX), 9, secrets)
    with pytest.raises(ValueError, match="at most 256 bytes, got 257"):
        initiate(payload=bytes(PAYLOAD_MAX + 1))
    with pytest.raises(ValueError, match="response"):
        answer(initiation, payload=bytes(PAYLOAD_MAX + 1))


def test_response_longer_than_the_initiation_is_dropped() -> None:
    """A responder that amplifies: everything else about its answer is genuine."""
    initiation = initiate()
    noise = InitiationMessage.parse(initiation.datagram).noise
    opened = open_message_1(SERVER.start, SERVER.private, noise)
    assert opened is not None
    amplifying = ReceivedInitiation(opened, 7, size=404)
    response, _ = amplifying.respond(PSK, index=9, payload=bytes(75), ephemeral=ANSWER_EPHEMERAL)
    assert len(response) == len(initiation.datagram) + 1
    assert initiation.finish(response) is Drop.SHORT


# -- initiations that are dropped -------------------------------------------------------------
def test_initiation_to_another_server() -> None:
    assert receive_initiation(STRANGER, initiate().datagram) is Drop.MAC1


def test_initiation_sealed_to_another_key_under_a_valid_mac1() -> None:
    datagram = with_mac1(initiate(remote=STRANGER.public).datagram, SERVER)
    assert receive_initiation(SERVER, datagram) is Drop.HANDSHAKE


def test_stranger_is_named_and_left_to_the_caller() -> None:
    assert receive(initiate(identity=STRANGER).datagram).peer_public == STRANGER.public


@pytest.mark.parametrize("kind", [0, 2, 3, 4, 255])
def test_initiation_of_unknown_type(kind: int) -> None:
    datagram = bytes((kind,)) + initiate().datagram[1:]
    assert receive_initiation(SERVER, with_mac1(datagram, SERVER)) is Drop.TYPE


def test_initiation_with_a_cookie_nobody_gave() -> None:
    assert receive_initiation(SERVER, initiate().datagram[:-16] + bytes(15) + b"\x01") is Drop.TYPE


def test_initiation_truncated_anywhere() -> None:
    datagram = initiate().datagram
    for length in range(len(datagram)):
        assert isinstance(receive_initiation(SERVER, datagram[:length]), Drop)
        if length >= 148:
            forged = with_mac1(datagram[:length], SERVER)
            assert receive_initiation(SERVER, forged[:-16] + bytes(16)) is Drop.HANDSHAKE


def test_initiation_with_bytes_appended() -> None:
    datagram = initiate().datagram
    assert receive_initiation(SERVER, datagram + b"\x00") is Drop.MAC1
    assert receive_initiation(SERVER, datagram + bytes(500)) is Drop.SHORT


def test_initiation_with_any_byte_changed() -> None:
    datagram = initiate().datagram
    for place in range(len(datagram)):
        reason = receive_initiation(SERVER, flipped(datagram, place))
        assert reason is (Drop.TYPE if place < 4 or place >= len(datagram) - 16 else Drop.MAC1)
    receive(datagram)


def test_initiation_with_any_byte_changed_under_a_valid_mac1() -> None:
    """All but the sender's index is authenticated by Noise too."""
    datagram = initiate().datagram
    for place in range(8, len(datagram) - 32):
        forged = with_mac1(flipped(datagram, place), SERVER)
        assert receive_initiation(SERVER, forged) is Drop.HANDSHAKE


@pytest.mark.parametrize("place", [4, 5, 6, 7])
def test_index_is_covered_by_mac1_alone(place: int) -> None:
    """As in WireGuard: who sees a datagram and knows its receiver's key can make it name another index."""
    initiation = initiate()
    datagram = with_mac1(flipped(initiation.datagram, place), SERVER)
    assert receive(datagram).peer_index == 7 ^ 1 << 8 * (7 - place)
    response, secrets = answer(initiation)
    changed = initiation.finish(with_mac1(flipped(response, place), CLIENT))
    assert changed == Established(CHOICE, 9 ^ 1 << 8 * (7 - place), secrets)


def test_mac1_is_checked_before_any_diffie_hellman(monkeypatch: pytest.MonkeyPatch) -> None:
    def reached(*_: object) -> None:
        raise AssertionError("reached Noise")

    monkeypatch.setattr("bondvpn.noise.ikpsk2.open_message_1", reached)
    assert receive_initiation(SERVER, flipped(initiate().datagram, -17)) is Drop.MAC1
    with pytest.raises(AssertionError, match="reached Noise"):
        receive_initiation(SERVER, initiate().datagram)


# -- responses that are dropped, and the genuine one that follows -----------------------------
def test_response_with_any_byte_changed_spoils_nothing() -> None:
    initiation = initiate()
    response, secrets = answer(initiation)
    for place in range(len(response)):
        reason = initiation.finish(flipped(response, place))
        assert reason is (Drop.TYPE if place < 4 or place >= len(response) - 16 else Drop.MAC1)
    assert initiation.finish(response) == Established(CHOICE, 9, secrets)


def test_response_with_any_byte_changed_under_a_valid_mac1_spoils_nothing() -> None:
    initiation = initiate()
    response, secrets = answer(initiation)
    for place in range(8, len(response) - 32):
        reason = initiation.finish(with_mac1(flipped(response, place), CLIENT))
        assert reason is (Drop.LANE if place < 12 else Drop.HANDSHAKE)
    assert initiation.finish(response) == Established(CHOICE, 9, secrets)


def test_response_truncated_anywhere_spoils_nothing() -> None:
    initiation = initiate()
    response, secrets = answer(initiation)
    for length in range(len(response)):
        assert isinstance(initiation.finish(response[:length]), Drop)
    assert initiation.finish(response + b"\x00") is Drop.MAC1
    assert initiation.finish(response + bytes(500)) is Drop.SHORT
    assert initiation.finish(response) == Established(CHOICE, 9, secrets)


@pytest.mark.parametrize("psk", [NO_PRESHARED_KEY, bytes(31) + b"\x01"])
def test_response_under_another_preshared_key_spoils_nothing(psk: bytes) -> None:
    initiation = initiate()
    wrong, _ = answer(initiation, psk)
    assert initiation.finish(wrong) is Drop.HANDSHAKE
    response, secrets = answer(initiation)
    assert initiation.finish(response) == Established(CHOICE, 9, secrets)


def test_response_to_someone_else() -> None:
    others, _ = answer(initiate(identity=STRANGER))
    assert initiate().finish(others) is Drop.MAC1


def test_response_to_another_attempt() -> None:
    """Same keys and index, another ephemeral: an answer that a retry overtook."""
    earlier = Initiation(
        CLIENT,
        Remote(SERVER.public, PSK),
        index=7,
        timestamp=TIMESTAMP,
        payload=OFFER,
        ephemeral=bytes(range(200, 232)),
    )
    response, _ = answer(earlier)
    assert initiate().finish(response) is Drop.HANDSHAKE


def test_initiation_passed_on_to_another_server() -> None:
    """It cannot be opened without the private key it was sealed to, whatever the mac1."""
    initiation = initiate()
    received = receive_initiation(STRANGER, with_mac1(initiation.datagram, STRANGER))
    assert received is Drop.HANDSHAKE


def test_response_replayed_after_the_handshake() -> None:
    initiation = initiate()
    response, _ = answer(initiation)
    assert isinstance(initiation.finish(response), Established)
    assert initiation.finish(response) is Drop.REPLAY
    assert initiation.finish(flipped(response, 20)) is Drop.MAC1


@pytest.mark.parametrize("kind", [0, 1, 3, 4, 255])
def test_response_of_unknown_type(kind: int) -> None:
    initiation = initiate()
    response, _ = answer(initiation)
    assert initiation.finish(with_mac1(bytes((kind,)) + response[1:], CLIENT)) is Drop.TYPE


def test_own_initiation_reflected() -> None:
    initiation = initiate()
    assert initiation.finish(initiation.datagram) is Drop.TYPE
    assert receive_initiation(CLIENT, initiation.datagram) is Drop.MAC1


@given(st.binary(max_size=420))
def test_garbage_is_dropped(garbage: bytes) -> None:
    initiation = initiate()
    for kind in (b"", b"\x01\x00\x00\x00", b"\x02\x00\x00\x00"):
        assert isinstance(receive_initiation(SERVER, kind + garbage), Drop)
        assert isinstance(initiation.finish(kind + garbage), Drop)


# -- local faults -----------------------------------------------------------------------------
@pytest.mark.parametrize("length", [0, 31, 33])
def test_keys_of_wrong_length(length: int) -> None:
    with pytest.raises(ConfigError, match=f"private key: 32 bytes expected, got {length}"):
        Identity(bytes(length))
    with pytest.raises(ConfigError, match=f"public key: 32 bytes expected, got {length}"):
        Remote(bytes(length))
    with pytest.raises(ConfigError, match=f"preshared key: 32 bytes expected, got {length}"):
        Remote(SERVER.public, bytes(length))


@pytest.mark.parametrize("point", LOW_ORDER)
def test_public_key_that_is_nobodys(point: bytes) -> None:
    with pytest.raises(ConfigError, match="low-order point"):
        Remote(point)


def test_timestamp_of_wrong_length() -> None:
    with pytest.raises(ValueError, match="timestamp: 12 bytes expected, got 8"):
        Initiation(
            CLIENT, Remote(SERVER.public), index=7, timestamp=bytes(8), payload=b"", ephemeral=EPHEMERAL
        )


# -- choice of cipher -------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("offered", "local_has_aes", "chosen"),
    [
        (AES_256_GCM | CHACHA20_POLY1305, True, AES_256_GCM),
        (AES_256_GCM | CHACHA20_POLY1305, False, CHACHA20_POLY1305),
        (CHACHA20_POLY1305, True, CHACHA20_POLY1305),
        (AES_256_GCM, True, AES_256_GCM),
        (AES_256_GCM, False, None),
        (0, True, None),
        (4, True, None),
        (0xFC | CHACHA20_POLY1305, True, CHACHA20_POLY1305),
    ],
)
def test_choice_of_cipher(offered: int, local_has_aes: bool, chosen: int | None) -> None:
    assert choose_cipher(offered, local_has_aes) == chosen
