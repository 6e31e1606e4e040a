"""Whole sessions over simulated lines: opening, renewing, restarts, replays. Time is virtual."""

import pytest
from frames import datagram, super_frame
from virtualnet import CLIENT_KEY, PSK, SERVER_KEY, Line, World

from bondvpn.noise.handshake import Identity, Initiation, Remote
from bondvpn.session.keypair import REJECT_AFTER_S, WIPE_AFTER_S
from bondvpn.session.keyring import ATTEMPTS_MAX
from bondvpn.stats import Drop
from bondvpn.wire.capabilities import AES_256_GCM, CHACHA20_POLY1305, VERSION, Capabilities
from bondvpn.wire.handshake import INITIATION, RESPONSE

THREE = [0.015, 0.010, 0.040]  # the demo's lines, one way


def lines(delays: list[float] = THREE, **shape: float) -> list[Line]:
    return [Line(i, delay_s=delay, **shape) for i, delay in enumerate(delays)]  # type: ignore[arg-type]


def opened(*delays: float, seed: int = 1, **client: float) -> World:
    world = World(lines(list(delays) or THREE), seed=seed, **client)
    world.start()
    world.wait(world.all_active, 5)
    return world


def initiations(world: World) -> list[bytes]:
    return [one.data for one in world.seen if one.to_server and one.data[0] == INITIATION]


# -- opening --------------------------------------------------------------------------------------
def test_a_session_opens_within_a_few_round_trips() -> None:
    """One for the handshake, two for a link to join both ways: over the fastest line first."""
    world = World(lines())
    client, server = world.start()
    fastest = 2 * min(THREE)
    assert world.wait(lambda: bool(client.logged("session started")), 5) <= fastest + 0.001
    assert world.wait(lambda: client.active != [], 5) <= 2 * fastest
    assert world.wait(world.all_active, 5) <= 4 * 2 * max(THREE)
    assert client.session is not None
    assert client.session.current is not None
    assert client.session.current.cipher == AES_256_GCM
    # The same initiation left by every line; the copies are replays and that is all they are.
    assert server.dropped == {"timestamp": 2}
    assert client.dropped == {}


@pytest.mark.parametrize("seed", range(8))
def test_all_links_join_over_bad_lines(seed: int) -> None:
    """20 % loss, duplicates, and jitter that reorders."""
    world = World(lines(loss=0.2, duplicate=0.2, jitter_s=0.03), seed=seed)
    world.start()
    world.wait(lambda: sum(link.active for link in world.client.links.values()) == 3, 30)
    world.run(30)
    assert world.client.session is world.client.initiator.session is not None


def test_one_living_line_is_enough() -> None:
    world = World(lines())
    world.lines[0].up = world.lines[1].up = False
    world.start()
    world.wait(lambda: world.server.active == [2] and world.client.active == [2], 2)
    world.lines[0].up = True
    world.wait(lambda: world.client.active == [0, 2], 1.5)


def test_a_line_of_two_seconds_gets_a_session_too() -> None:
    """Bufferbloat: the answer comes after the retry has left."""
    world = World(lines([1.0]))
    world.start()
    world.wait(world.all_active, 30)


def test_a_slow_line_is_answered_at_the_first_attempt() -> None:
    """However many have left since."""
    world = World(lines([0.9]))
    client, server = world.start()
    world.wait(lambda: bool(client.logged("session started")), 1.81)
    assert client.initiator.attempts == 0
    world.wait(lambda: bool(server.logged("session started")), 0.91)


def test_attempts_become_rarer_but_never_end() -> None:
    world = World(lines([0.01]))
    world.start_client()
    counted = []
    for seconds in (2.0, 8.0, 60.0):
        before = len(initiations(world))
        world.run(seconds)
        counted.append((len(initiations(world)) - before) / seconds)
    assert counted[0] >= 3  # a second
    assert counted[0] > counted[1] > counted[2]
    assert 0.75 <= counted[2] <= 1.0


def test_a_client_without_aes_gets_chacha20() -> None:
    world = World(lines([0.01]))
    world.start_server()
    client = world.start_client(ciphers=CHACHA20_POLY1305)
    world.wait(world.all_active, 5)
    assert client.session is not None
    assert client.session.current is not None
    assert client.session.current.cipher == CHACHA20_POLY1305


def test_the_server_learns_name_rate_and_mtu_of_each_link() -> None:
    world = World([Line(0, rate_bps=16_000_000), Line(1, rate_bps=30_000_000)])
    world.lines[1].interface_mtu = world.lines[1].mtu = 1492
    _, server = world.start()
    world.wait(world.all_active, 5)
    assert [server.link(i).name for i in (0, 1)] == ["line0", "line1"]
    assert [server.link(i).send_rate_bps for i in (0, 1)] == [16_000_000, 30_000_000]
    assert [server.link(i).receive_rate_bps for i in (0, 1)] == [16_000_000, 30_000_000]
    assert [server.link(i).interface_mtu for i in (0, 1)] == [1500, 1492]
    assert [server.link(i).rate_bps for i in (0, 1)] == [15_920_000, 29_850_000]  # paced 0.5 % below


# -- who is let in ----------------------------------------------------------------------------------
def test_a_stranger_gets_silence_and_leaves_nothing() -> None:
    world = World(lines([0.01]))
    server = world.start_server()
    world.start_client(key=b"\x77" * 32)
    world.run(10)
    assert server.peer.session is server.peer.waiting is None
    assert server.count(Drop.HANDSHAKE) >= 7
    assert not any(one for one in world.seen if not one.to_server)
    assert server.table.lanes == {}
    assert server.table._keypairs == {}
    assert server.table._reserved == set()


def test_a_wrong_preshared_key_never_opens_a_session() -> None:
    """IKpsk2: the initiator finds out, from the response. The server keeps one unconfirmed session."""
    world = World(lines([0.01]))
    server = world.start_server()
    client = world.start_client(psk=b"\x44" * 32)
    world.run(20)
    assert client.log == server.log == []
    assert client.count(Drop.HANDSHAKE) >= 14
    assert server.peer.session is None
    assert len(server.table._keypairs) <= ATTEMPTS_MAX
    assert len(client.table._reserved) <= ATTEMPTS_MAX


def test_no_common_cipher_is_silence() -> None:
    world = World(lines([0.01]))
    server = world.start_server()
    world.start_client(ciphers=0)
    world.run(3)
    assert server.count(Drop.HANDSHAKE) >= 2
    assert not any(one for one in world.seen if not one.to_server)


def test_a_response_with_a_cipher_nobody_offered_is_dropped() -> None:
    world = World(lines([0.01]))
    server = world.start_server()
    server.responder._capabilities = server.responder._capabilities._replace(version=VERSION + 1)
    client = world.start_client()
    world.run(3)
    assert client.session is None
    assert client.count(Drop.HANDSHAKE) >= 2


def test_forged_and_truncated_responses_do_not_spoil_the_genuine_one() -> None:
    world = World(lines([0.05]))
    client, _ = world.start()
    world.run_until(lambda: any(one.data[0] == RESPONSE for one in world.seen), 1)
    genuine = next(one.data for one in world.seen if one.data[0] == RESPONSE)
    line = world.lines[0]
    for at in range(len(genuine)):
        forged = bytearray(genuine)
        forged[at] ^= 0x40
        world.inject(bytes(forged), line, to_server=False)
        world.inject(genuine[:at], line, to_server=False)
    world.wait(world.all_active, 2)
    assert len(client.logged("session started")) == 1
    assert client.count(Drop.MAC1) > 50
    world.inject(genuine, line, to_server=False)
    world.run(0.01)
    assert len(client.logged("session started")) == 1


# -- renewing the keys ------------------------------------------------------------------------------
@pytest.mark.parametrize("jitter_s", [0.0, 0.02])
def test_a_rekey_every_second_under_traffic_loses_nothing(jitter_s: float) -> None:
    """Both keypairs are valid while datagrams under the old one are still on their way."""
    world = World(lines(jitter_s=jitter_s), rekey_after_s=1.0)
    client, server = world.start()
    world.wait(world.all_active, 5)
    rng = world.rng
    down: list[bytes] = []
    up: list[bytes] = []
    first = client.session

    def more() -> None:
        number = len(up)
        up.append(datagram(1 + number % 4, number, rng.randint(60, 1514)))
        down.append(super_frame(1 + number % 4, number * 5000, rng.randint(1, 5000), 1448))
        client.tap.frames.append(up[-1])
        server.tap.frames.append(down[-1])
        if number < 1500:
            world.at(world.now + 0.004, more)

    more()
    world.run(8)
    assert client.session is first
    handshakes = {one.data for one in world.seen if one.to_server and one.data[0] == INITIATION}
    assert len(handshakes) >= 5
    assert sorted(server.tap.written) == sorted(up)
    assert sorted(client.tap.written) == sorted(down)
    # A line that reorders makes us send again what then comes twice.
    reordered = {"late"} if jitter_s else set()
    assert set(server.dropped) <= {"timestamp"} | reordered
    assert set(client.dropped) <= reordered
    assert len(client.logged("session")) == len(server.logged("session")) == 1


def test_no_more_than_the_keys_in_use_are_kept() -> None:
    world = World(lines([0.01]), rekey_after_s=1.0)
    client, server = world.start()
    world.run(30)
    for end in (client, server):
        assert len(end.table._keypairs) == 2
        assert len(end.table.lanes) <= 2
        assert end.table._reserved == set()


def test_keys_are_renewed_before_they_expire() -> None:
    world = opened(0.01)
    client = world.client
    assert client.session is not None
    first = client.session.current
    world.run(2 * REJECT_AFTER_S)
    assert client.logged("session ended") == []
    assert client.session.current is not first
    assert first not in client.table._keypairs.values()


def test_without_renewal_both_ends_forget_the_keys() -> None:
    world = opened(0.01)
    client, server = world.client, world.server
    for line in world.lines:
        line.up = False
    world.run(REJECT_AFTER_S + 1)
    assert client.logged("keys expired")
    assert server.logged("keys expired")
    assert client.session is server.session is None
    assert client.table.lanes == server.table.lanes == {}
    world.lines[0].up = True
    world.wait(world.all_active, 2)


# -- restarts ---------------------------------------------------------------------------------------
@pytest.mark.parametrize(("away_s", "within_s"), [(0.0, 2.0), (0.5, 2.0), (3.0, 0.7), (40.0, 1.5)])
@pytest.mark.parametrize("seed", range(3))
def test_the_tunnel_is_soon_back_after_a_restart_of_the_server(
    away_s: float, within_s: float, seed: int
) -> None:
    world = opened(seed=seed)
    world.run(world.rng.uniform(0.5, 3.0))
    world.server = None
    world.run(away_s)
    server = world.start_server()
    world.wait(lambda: bool(server.active) and bool(world.client.active), within_s)
    world.wait(world.all_active, 2)


@pytest.mark.parametrize("goodbye", [False, True])
def test_what_waits_while_the_server_restarts_arrives(goodbye: bool) -> None:
    """Without a TCP inside that sends it again. What comes after a goodbye is dropped, and counted."""
    world = opened()
    client = world.client
    frames = [super_frame(1 + i % 3, i * 3000, 3000, 1448) for i in range(60)]
    client.tap.frames.extend(frames[:40])
    world.run(0.0005)  # more than the lines take at once
    server = world.server
    assert server.session is not None
    came = len(server.tap.written)
    if goodbye:
        server.session.close(world.now)
    world.server = None
    world.run(1)
    client.tap.frames.extend(frames[40:])
    world.run(1)
    assert came == 0
    assert client.dropped.get("queue", 0) == (20 if goodbye else 0)
    server = world.start_server()
    world.wait(world.all_active, 3)
    world.run(1)
    arrived = set(server.tap.written)
    assert arrived <= set(frames)
    assert len(arrived & set(frames[:40])) >= 10
    assert arrived & set(frames[40:]) == (set() if goodbye else set(frames[40:]))


@pytest.mark.parametrize("seed", range(3))
def test_the_tunnel_is_back_within_two_seconds_of_a_goodbye(seed: int) -> None:
    """A clean restart: CLOSE ends the session at once, data to it stops."""
    world = opened(seed=seed)
    world.run(1.3)
    assert world.server.session is not None
    world.server.session.close(world.now)
    world.server = None
    world.run(0.2)
    assert world.client.logged("closed by the peer")
    assert world.client.active == []
    assert not any(link.active for link in world.client.links.values())
    world.run(1)
    server = world.start_server()
    world.wait(lambda: bool(server.active) and bool(world.client.active), 2)


@pytest.mark.parametrize("away_s", [0.0, 3.0])
def test_the_tunnel_is_back_within_two_seconds_of_a_restarted_client(away_s: float) -> None:
    world = opened()
    world.run(1)
    old = world.server.session
    world.client = None
    world.run(away_s)
    world.start_client()
    world.wait(world.all_active, 2)
    assert world.server.session is not old
    assert world.server.logged("the client restarted")
    assert len(world.server.table._keypairs) == 1


def test_a_restarted_client_is_served_though_its_clock_stepped_back() -> None:
    """The last timestamp is kept and the next is later whatever the clock says."""
    world = opened(0.01)
    world.now -= 900
    world.start_client()
    world.wait(lambda: bool(world.client.active), 2)


# -- replays ----------------------------------------------------------------------------------------
def test_a_replayed_initiation_is_counted_and_nothing_else() -> None:
    world = opened(0.01)
    server = world.server
    session, keys = server.session, dict(server.table._keypairs)
    answered = len([one for one in world.seen if one.data[0] == RESPONSE])
    before = server.count(Drop.TIMESTAMP)
    for _ in range(5):
        world.inject(initiations(world)[0], world.lines[0], to_server=True, source=("192.0.2.99", 9))
    world.run(0.01)
    assert server.count(Drop.TIMESTAMP) == before + 5
    assert server.table._keypairs == keys
    assert server.session is session
    assert server.peer.waiting is None
    assert len([one for one in world.seen if one.data[0] == RESPONSE]) == answered
    assert world.sent_to["192.0.2.99", 9] == 0


def test_a_replay_after_a_server_restart_replaces_nothing() -> None:
    """The new process has no timestamp to compare with; but only who holds the keys can use a session."""
    world = opened(0.01)
    old = initiations(world)[0]
    world.server = None
    server = world.start_server()
    attacker = ("192.0.2.99", 9)
    world.inject(old, world.lines[0], to_server=True, source=attacker)
    world.run_until(lambda: server.peer.waiting is not None, 0.01)
    assert server.peer.waiting is not None
    assert server.log == []
    assert 0 < world.sent_to[attacker] <= len(old)
    world.wait(world.all_active, 2)
    genuine = server.session
    world.inject(old, world.lines[0], to_server=True, source=attacker)
    world.run(1)
    assert server.session is genuine
    assert server.logged("session ended") == []
    assert world.sent_to[attacker] <= len(old)


def test_a_session_nobody_uses_is_wiped() -> None:
    world = World(lines([0.01]))
    server = world.start_server()
    capabilities = Capabilities(VERSION, AES_256_GCM, 15, bytes(8), 65_000, 1500)
    initiation = Initiation(
        Identity(CLIENT_KEY),
        Remote(Identity(SERVER_KEY).public, PSK),
        index=5,
        timestamp=world.timestamp(),
        payload=capabilities.emit(),
        ephemeral=b"\x55" * 32,
    )
    world.inject(initiation.datagram, world.lines[0], to_server=True)
    world.run(1)
    assert len(server.table._keypairs) == 1
    world.run(WIPE_AFTER_S + 1)
    assert server.peer.waiting is None
    assert server.table._keypairs == {}
    assert server.log == []


def test_replayed_transport_datagrams_change_nothing() -> None:
    world = opened(0.01)
    world.run(2)
    server = world.server
    link = server.link(0)
    before = link.path, link.rx_datagrams, server.count(Drop.REPLAY)
    there = world.now - 0.02  # the others are still on their way
    old = [one.data for one in world.seen if one.to_server and one.data[0] == 4 and one.at < there]
    for data in old:
        world.inject(data, world.lines[0], to_server=True, source=("192.0.2.99", 9))
    world.run(0.0001)
    assert (link.path, link.rx_datagrams) == before[:2]
    assert server.count(Drop.REPLAY) == before[2] + len(old)
    assert world.sent_to["192.0.2.99", 9] == 0
