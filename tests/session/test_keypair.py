"""Keypairs, their lanes, and the table that finds a lane by its index."""

import random

import pytest
from cryptography.exceptions import InvalidTag
from tunnelends import INDEX, SECRETS, StubSession, keypair

from bondvpn.noise.lanes import aead, lane_key
from bondvpn.session.keypair import MAX_LANES, REJECT_AFTER_S, LaneTable
from bondvpn.wire import transport
from bondvpn.wire.capabilities import AES_256_GCM, CHACHA20_POLY1305


@pytest.mark.parametrize("cipher", [AES_256_GCM, CHACHA20_POLY1305])
def test_a_lane_seals_with_its_own_key_header_and_counter(cipher: int) -> None:
    lane = keypair(StubSession(), initiator=True, cipher=cipher).send_lane(3)
    for counter in range(3):
        datagram = lane.seal(b"\3 something")
        header = transport.emit(INDEX << 8 | 3, counter)
        assert datagram[:16] == header
        key = lane_key(SECRETS.initiator_to_responder, 3)
        nonce = bytes(4) + counter.to_bytes(8, "big")
        assert aead(cipher, key).decrypt(nonce, datagram[16:], header) == b"\3 something"
    assert lane.counter == 3
    assert lane.prefix.to_bytes(8, "big") == header[:8]


def test_each_direction_and_lane_has_a_key_of_its_own() -> None:
    ends = [keypair(StubSession(), initiator=initiator) for initiator in (True, False)]
    sealed = ends[0].send_lane(1).seal(b"\3 something")
    nonce = bytes(12)
    for end, number in ((ends[0], 1), (ends[1], 2), (ends[1], 1)):
        lane = end.receive_lane(number)
        assert lane is not None
        row = bytearray(len(sealed) - 32)
        if (end, number) == (ends[1], 1):
            lane.decrypt_into(nonce, sealed[16:], sealed[:16], row)
            assert row == b"\3 something"
        else:
            with pytest.raises(InvalidTag):
                lane.decrypt_into(nonce, sealed[16:], sealed[:16], row)


def test_a_lane_is_made_once_and_none_beyond_the_last() -> None:
    keys = keypair(StubSession(), initiator=False)
    assert keys.send_lane(0) is keys.send_lane(0)
    assert keys.receive_lane(MAX_LANES - 1) is keys.receive_lane(MAX_LANES - 1)
    assert keys.receive_lane(MAX_LANES) is None


def test_the_busiest_lane_decides_when_to_renew() -> None:
    keys = keypair(StubSession(), initiator=True)
    assert keys.datagrams_sent() == 0
    keys.send_lane(0).counter = 5
    keys.send_lane(1).counter = 7
    assert keys.datagrams_sent() == 7


def test_a_keypair_expires_by_its_age() -> None:
    keys = keypair(StubSession(), initiator=True)
    assert not keys.expired(REJECT_AFTER_S - 0.001)
    assert keys.expired(REJECT_AFTER_S)


def test_only_the_responder_waits_for_confirmation() -> None:
    assert keypair(StubSession(), initiator=True).confirmed
    assert not keypair(StubSession(), initiator=False).confirmed


def test_the_table_gives_out_no_index_twice() -> None:
    """Though the random source does."""
    numbers = iter([b"\0\0\1", b"\0\0\1", b"\0\0\2", INDEX.to_bytes(3, "big"), b"\0\0\1", b"\0\0\3"])
    table = LaneTable(lambda n: next(numbers))
    assert (table.reserve(), table.reserve()) == (1, 2)
    table.add(keypair(StubSession(), initiator=False))
    assert table.reserve() == 3
    table.release(1)
    numbers = iter([b"\0\0\1"])
    assert table.reserve() == 1


def test_lanes_are_found_while_their_keypair_is_known() -> None:
    table = LaneTable(random.Random(1).randbytes)
    keys = keypair(StubSession(), initiator=False)
    assert table.find(INDEX << 8) is None
    table.add(keys)
    lane = table.find(INDEX << 8 | 4)
    assert lane is not None
    assert (lane.number, lane.keypair, lane.session) == (4, keys, keys.session)
    assert table.find(INDEX << 8 | 4) is lane
    assert table.find(INDEX << 8 | MAX_LANES) is None
    table.remove(keys)
    assert table.find(INDEX << 8 | 4) is None
    assert table.lanes == {}
    table.remove(keys)  # twice is fine


@pytest.mark.parametrize("workers", [2, 3, 64])
def test_an_index_tells_which_of_several_processes_gave_it_out(workers: int) -> None:
    for worker in range(workers):
        table = LaneTable(random.Random(worker).randbytes, worker=worker, workers=workers)
        indexes = {table.reserve() for _ in range(50)}
        assert len(indexes) == 50
        assert {index % workers for index in indexes} == {worker}
        assert max(indexes) < transport.KEYPAIR_INDEXES


def test_an_index_of_more_than_24_bits_is_none() -> None:
    """2^24 - 1 is divisible by 3: moved up to the worker's remainder it would not fit."""
    numbers = iter([b"\xff\xff\xff", b"\0\0\1"])
    assert LaneTable(lambda n: next(numbers), worker=2, workers=3).reserve() == 2
