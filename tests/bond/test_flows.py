"""Streams for flows: one each while there are enough, and each flow stays where it is."""

import random

from bondvpn.bond.classify import FLOWS
from bondvpn.bond.flows import IDLE_S, Flows
from bondvpn.wire.sealed import BULK_STREAMS


def test_as_many_flows_as_streams_have_one_each_whatever_their_hash() -> None:
    for seed in range(20):
        rng = random.Random(seed)
        flows, names = Flows(), rng.sample(range(1, FLOWS + 1), BULK_STREAMS)
        now, found = 100.0, {}
        for _ in range(400):
            now += rng.expovariate(1000)
            name = rng.choice(names)
            assert found.setdefault(name, flows.stream(name, now)) == flows.stream(name, now)
        assert set(found) == set(names)
        assert sorted(found.values()) == list(range(1, BULK_STREAMS + 1))


def test_a_new_flow_avoids_those_that_send() -> None:
    flows, now = Flows(), 0.0
    busy = {flows.stream(name, now) for name in (1, 2, 3)}
    for name in range(10, 10 + 5 * BULK_STREAMS):  # short ones come and go
        now += 0.5
        assert flows.stream(name, now) not in busy
        assert {flows.stream(name, now) for name in (1, 2, 3)} == busy


def test_a_flow_keeps_its_stream_through_a_pause() -> None:
    flows = Flows()
    first = flows.stream(1, 0.0)
    for name in range(2, 2 + BULK_STREAMS):
        flows.stream(name, IDLE_S / 2)
    assert flows.stream(1, IDLE_S) == first


def test_one_that_was_away_for_long_takes_what_is_free() -> None:
    flows = Flows()
    first = flows.stream(1, 0.0)
    second = flows.stream(2, 0.1)
    for name in range(3, 1 + BULK_STREAMS):
        flows.stream(name, 2 * IDLE_S)
    assert flows.stream(100, 2 * IDLE_S) == first
    assert flows.stream(1, 2 * IDLE_S) == second
