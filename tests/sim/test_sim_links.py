"""Links over simulated lines: silence and return, NAT rebinding, path MTU, goodbye. Time is virtual."""

from collections import Counter
from math import inf

import pytest
from frames import datagram, super_frame
from virtualnet import SERVER_ADDRESS, Line, World

from bondvpn.bond.capacity import WINDOW_START_BYTES
from bondvpn.bond.liveness import ANSWERS_PER_FLAP, PROBE_BUSY_S, PROBE_IDLE_SERVER_S, LinkState
from bondvpn.bond.longprobes import LATE_S, TRAIN_PROBES
from bondvpn.bond.pathmtu import BASE_BYTES
from bondvpn.lab import shape
from bondvpn.lab.shape import Shape
from bondvpn.session.link import PATH_MTU_DEFAULT_BYTES, Path, Sent
from bondvpn.stats import Drop
from bondvpn.wire.handshake import TRANSPORT
from bondvpn.wire.sealed import Probe, emit_probe
from bondvpn.wire.transport import ETHERNET_LEN, OVERHEAD, udp_overhead

SETTLED_S = 3.0
PROBE_BYTES = len(emit_probe(Probe(0, 0))) + OVERHEAD


def opened(*lines: Line, seed: int = 1, scheduler: str = "weighted") -> World:
    """By its weights every line carries a share of the little that these tests send."""
    world = World(lines or [Line(0), Line(1)], seed=seed)
    world.start(scheduler)
    world.wait(world.all_active, 5)
    world.run(SETTLED_S)
    return world


def keep_busy(world: World, seconds: float) -> list[bytes]:
    """Both ends send a segment of TCP each 10 ms, which is bulk; what the client sent, as it grows."""
    sent: list[bytes] = []
    end = world.now + seconds

    def more() -> None:
        sent.append(super_frame(1 + len(sent) % 3, len(sent) * 850, 850, 1448))
        if world.client is not None:
            world.client.tap.frames.append(sent[-1])
        if world.server is not None:
            world.server.tap.frames.append(sent[-1])
        if world.now < end:
            world.at(world.now + 0.010, more)

    more()
    return sent


# -- silence and return -------------------------------------------------------------------------------
@pytest.mark.parametrize("delay_s", [0.005, 0.02, 0.1])
@pytest.mark.parametrize("phase_s", [0.0, 0.03, 0.06])
def test_a_silent_line_is_noticed_by_both_ends_while_it_carries_data(delay_s: float, phase_s: float) -> None:
    """At most: a probe's pace, two more lost ones, and 60 ms + RTT + 4 variations. Reports that say nothing
    of what is under way tell it sooner, but not before those 60 ms."""
    world = opened(Line(0), Line(1, delay_s=delay_s))
    keep_busy(world, 5)
    world.run(2 + phase_s)
    world.lines[1].up = False
    bound = 0.075 + 2 * 0.075 + 0.060 + 2 * delay_s + 4 * 0.010
    # One way delay more: what is on the line still arrives.
    took = world.wait(lambda: world.client.active == world.server.active == [0], bound + delay_s + 0.010)
    assert took >= 0.060
    assert world.client.logged("line1 stalled")


@pytest.mark.parametrize("phase_s", [0.0, 0.01, 0.02, 0.03, 0.04, 0.05, 0.06])
def test_the_line_that_carries_the_reports_dies_alone(phase_s: float) -> None:
    """Nothing is heard of the other one then, until the reports come by it; it is not given up for that."""
    world = opened(Line(0, delay_s=0.004), Line(1, delay_s=0.007))
    for start_s in (0.0, 0.002, 0.004, 0.006, 0.008):
        world.at(world.now + start_s, lambda: keep_busy(world, 5))
    world.run(2 + phase_s)
    world.lines[0].up = False
    world.client.session.path_down(world.client.link(0), "no carrier", world.now)
    world.run(2)
    assert world.client.active == world.server.active == [1]
    for end in (world.client, world.server):
        assert not end.logged("line1 stalled")


@pytest.mark.parametrize("away_s", [0.01, 0.02, 0.05, 0.08])
def test_a_line_that_is_bound_anew_again_and_again_silences_no_other(away_s: float) -> None:
    """The server goes on reporting by it until it hears of the new address."""
    world = opened(Line(0, delay_s=0.002), Line(1, delay_s=0.007), scheduler="adaptive")
    keep_busy(world, 12)
    world.run(1)
    session, link = world.client.session, world.client.link(0)
    for number in range(60):
        path = link.path
        world.lines[0].up = False
        session.path_down(link, "another address", world.now)
        world.run(away_s)
        world.lines[0].up, world.lines[0].port = True, 52_000 + number
        link.set_path(path)
        session.path_up(link, world.now)
        world.wait(world.all_active, 1)
        world.run(0.001 * number)
    assert not world.client.logged("line1 stalled")


def test_an_idle_line_that_dies_is_noticed_by_the_client_within_two_seconds() -> None:
    """Not so fast on purpose: an idle tunnel costs nothing. The late answer then quickens the probes."""
    world = opened()
    world.lines[1].up = False
    world.wait(lambda: world.client.active == [0], 1.0 + 0.2 + 2 * 0.075 + 0.5 + 0.1)


def test_alone_it_takes_longer() -> None:
    """With no other line to compare with it may be us, or the peer, that stood still for a moment."""
    world = opened(Line(0))
    keep_busy(world, 5)
    world.run(2)
    world.lines[0].up = False
    took = world.wait(lambda: world.client.active == [], 0.075 + 2 * 0.075 + 0.5 + 0.05)
    assert took >= 0.5


@pytest.mark.parametrize("silent_s", [0.4, 0.8])
def test_nothing_is_under_way_on_a_silent_line_that_could_count_when_it_returns(silent_s: float) -> None:
    world = opened(Line(0), Line(1))
    keep_busy(world, 5)
    world.run(1)
    world.lines[1].up = False
    world.wait(lambda: world.client.active == world.server.active == [0], 1)
    for _ in range(int(silent_s / 0.010)):
        world.run(0.010)
        assert world.client.link(1).oldest == world.server.link(1).oldest == inf
    world.lines[1].up = True
    world.wait(world.all_active, 2)
    world.run(1)
    assert world.all_active()


def test_a_line_of_several_must_prove_itself_the_more_often_it_stalled() -> None:
    world = opened()
    keep_busy(world, 20)
    took = []
    for _ in range(3):
        world.run(2)
        world.lines[1].up = False
        world.wait(lambda: world.client.active == world.server.active == [0], 1.0)
        world.lines[1].up = True
        took.append(world.wait(world.all_active, 1.0))
    assert took[0] < 0.25
    assert took[2] > took[0] + PROBE_BUSY_S * ANSWERS_PER_FLAP


def test_the_only_line_need_not_prove_itself_however_often_it_stalled() -> None:
    """Three stalls within 30 s cost one line of several ten answers in a row: half a second."""
    world = opened(Line(0))
    keep_busy(world, 20)
    for _ in range(3):
        world.run(2)
        world.lines[0].up = False
        world.wait(lambda: world.client.active == world.server.active == [], 1.0)
        world.lines[0].up = True
        world.wait(world.all_active, 0.25)


@pytest.mark.parametrize("away_s", [0.6, 2.9, 3.5, 10.0, 40.0])
def test_a_line_that_comes_back_is_used_within_three_seconds(away_s: float) -> None:
    world = opened()
    keep_busy(world, away_s + 10)
    world.run(1)
    world.lines[1].up = False
    world.run(away_s)
    expected = LinkState.DEAD if away_s > 4 else LinkState.STALLED
    if away_s != 3.5:
        assert world.client.link(1).liveness.state is expected
    world.lines[1].up = True
    world.wait(world.all_active, 3)
    world.run(0.5)
    assert world.all_active()


def test_three_answers_in_a_row_bring_a_line_back_and_fewer_do_not() -> None:
    world = opened()
    keep_busy(world, 20)
    world.lines[1].up = False
    world.run(1)
    for _ in range(5):
        world.lines[1].up = True
        world.run(0.11)
        world.lines[1].up = False
        world.run(0.5)
        assert world.client.active == [0]


@pytest.mark.parametrize("delay_s", [0.005, 0.06, 0.15, 0.3])
def test_lost_probes_alone_do_not_kill_a_busy_line(delay_s: float) -> None:
    """Each tenth probe or answer of a line is lost, of both directions: never two in a row."""
    world = opened(Line(0), Line(1, delay_s=delay_s))
    keep_busy(world, 90)
    line = world.lines[1]
    count = 0

    def lose_each_tenth() -> None:
        nonlocal count
        seen = world.seen[-1]
        is_probe = seen.line == 1 and len(seen.data) == PROBE_BYTES
        count += is_probe
        line.loss = float(is_probe and count % 10 == 0)

    world.on_carry = lose_each_tenth
    world.run(90)
    assert len(world.seen) > 4000
    assert world.client.logged("stalled") == world.server.logged("stalled") == []


def test_data_moves_to_the_other_line_and_nothing_is_delivered_twice() -> None:
    world = opened()
    sent = keep_busy(world, 6)
    world.run(2)
    world.lines[1].up = False
    world.run(6)
    written = world.server.tap.written
    assert len(set(written)) == len(written)
    assert set(written) <= set(sent)
    assert set(sent[-300:-1]) <= set(written)


# -- down and up ------------------------------------------------------------------------------------
def test_a_link_whose_path_goes_and_comes_joins_again_by_its_new_socket() -> None:
    world = opened()
    client = world.client
    link = client.link(1)
    link.blocked, link.unsent = True, (b"stale", 5)
    client.session.path_down(link, "ppp1: no carrier", world.now)
    assert link.liveness.state is LinkState.DOWN
    assert client.logged("line1 down ppp1: no carrier")
    world.run(2)
    assert client.active == world.server.active == [0]
    world.lines[1].port += 1  # a new socket, a new mapping
    client.connect()
    assert (link.blocked, link.unsent) == (False, None)
    client.session.path_up(link, world.now)
    world.wait(world.all_active, 1)
    assert world.server.link(1).path.address == world.lines[1].address
    assert link.reason == ""


def test_a_kernel_that_cannot_send_takes_the_link_down_at_once() -> None:
    world = opened()
    world.client_sockets[1].fails = Sent.DOWN
    keep_busy(world, 1)
    world.wait(lambda: world.client.active == [0], 0.1)
    assert world.client.logged("line1 down Network is unreachable")
    assert world.client.link(1).path is None


def test_a_goodbye_ends_the_session_and_its_links() -> None:
    world = opened()
    world.client.session.close(world.now)
    world.client = None
    world.run(0.1)
    assert world.server.logged("session ended: closed by the peer")
    assert world.server.session is None
    assert world.server.table._keypairs == {}
    world.run(1)
    assert world.server.peer.session is None


# -- NAT --------------------------------------------------------------------------------------------
def test_a_link_follows_the_clients_new_address_once_it_is_proven() -> None:
    world = opened()
    old = world.lines[1].address
    keep_busy(world, 3)
    world.run(1)
    world.lines[1].port = 51_111
    new = world.lines[1].address
    world.wait(lambda: world.server.link(1).path.address == new, 0.2)
    world.wait(world.all_active, 0.5)
    sent = world.sent_to[old]
    world.run(1)
    assert world.sent_to[old] == sent
    assert world.server.link(0).path.address == world.lines[0].address
    assert world.server.logged("line1 joining the peer's address changed")
    assert world.client.logged("session")[1:] == []


def test_an_older_datagram_does_not_move_the_link() -> None:
    """Authentic and new, but overtaken: it may come by a mapping that is gone."""
    world = opened(Line(0, delay_s=0.050))
    world.lines[0].loss = 1.0
    world.run(5)
    lost = [one.data for one in world.seen if one.to_server and one.at > world.now - 5]
    kept = [data for data in lost if data[0] == TRANSPORT][-2:]
    world.inject(kept[1], world.lines[0], to_server=True)
    world.inject(kept[0], world.lines[0], to_server=True, after_s=0.001, source=("192.0.2.99", 9))
    world.run(0.002)
    assert world.server.link(0).path.address == world.lines[0].address
    assert world.sent_to["192.0.2.99", 9] == 0


@pytest.mark.parametrize("quiet", [True, False])
def test_an_unproven_address_gets_at_most_three_times_what_came_from_it(quiet: bool) -> None:
    """Somebody on the path repeats the client's newest datagram from the victim's address."""
    world = opened()
    victim = ("192.0.2.99", 9)
    world.client_sockets[1].send_run = lambda run, segment, address, local=b"": (Sent.OK, len(run))
    link = world.client.link(1)
    stolen = link.send_lane.seal(b"\3" + bytes(6))
    if not quiet:
        keep_busy(world, 30)
    world.inject(stolen, world.lines[1], to_server=True, source=victim)
    world.run(30)
    assert world.server.link(1).path.address == victim
    assert 0 < world.sent_to[victim] <= 3 * len(stolen)


def test_a_response_proves_only_the_address_it_came_from() -> None:
    """The newest datagram, stolen, comes first from the victim's address, then the client's own answer."""
    world = opened()
    victim = ("192.0.2.99", 9)
    line = world.lines[1]
    line.port = 51_111
    link = world.client.link(1)
    link.send_control(link.send_lane.seal(b"\3" + bytes(6)), world.now)
    server_link = world.server.link(1)
    world.wait(lambda: server_link.liveness.state is LinkState.JOINING, 1.2)
    answer = link.send_lane.seal(b"\6" + server_link.challenge)
    reserved = link.send_lane.counter
    link.send_lane.counter += 1
    stolen = link.send_lane.seal(b"\3" + bytes(6))
    world.inject(stolen, line, to_server=True, source=victim)
    world.inject(answer, line, to_server=True)
    world.run(0.001)
    lane = link.send_lane
    later, lane.counter = lane.counter, reserved
    world.inject(lane.seal(b"\6" + server_link.challenge), line, to_server=True)  # of the victim's challenge
    lane.counter = later
    world.run(0.001)
    assert server_link.path.address == victim
    assert server_link.liveness.state is LinkState.JOINING
    world.wait(world.all_active, 2.5)
    assert server_link.path.address == line.address


def test_a_new_link_answers_within_three_times_what_came_until_it_is_proven() -> None:
    world = World([Line(0), Line(1)])
    world.start()
    world.run_until(lambda: bool(world.server.logged("session started")), 1)
    received, sent = {0: 0, 1: 0}, {0: 0, 1: 0}
    proven: set[int] = set()
    for one in world.seen:
        if one.data[0] == 4 and one.to_server:
            received[one.line] += len(one.data)
    start = len(world.seen)
    world.wait(world.all_active, 2)
    for at in range(start, len(world.seen)):
        one = world.seen[at]
        if one.data[0] != 4 or one.line in proven:
            continue
        if one.to_server:
            received[one.line] += len(one.data)
        else:
            sent[one.line] += len(one.data)
            assert sent[one.line] <= 3 * received[one.line]
        if len(one.data) == OVERHEAD + 9 and one.to_server:  # its PATH_RESPONSE
            proven.add(one.line)
    assert proven == {0, 1}


def test_the_client_does_not_follow_the_server() -> None:
    """It sends where the configuration says, whoever answers from wherever."""
    world = opened(Line(0))
    link = world.client.link(0)
    other = Path(link.path.socket, ("192.0.2.66", 1189))
    world.client.session.moved(link, other, 60, world.now)
    assert link.path.address == SERVER_ADDRESS


# -- path MTU ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("mtu", [1280, 1428, 1492, 1500])
@pytest.mark.parametrize("loss", [0.0, 0.05])
def test_probes_find_the_mtu_of_each_path(mtu: int, loss: float) -> None:
    world = opened(Line(0), Line(1, mtu=mtu, loss=loss))
    world.run(20)
    for end in (world.client, world.server):
        assert [end.link(0).path_mtu.current, end.link(1).path_mtu.current] == [1500, mtu]
    sent = keep_busy(world, 1)
    sent += [datagram(7, 10_000 + i, 1514) for i in range(50)]
    world.client.tap.frames.extend(sent[-50:])
    world.lines[1].loss = 0
    world.run(2)
    assert set(sent[-50:]) <= set(world.server.tap.written)
    assert all(len(one.data) + 28 <= mtu for one in world.seen if one.data[0] == 4 and one.at > world.now - 2)


def test_what_was_lost_for_its_size_is_pardoned_when_the_size_is_found() -> None:
    world = opened(Line(0), Line(1))
    world.run(5)
    world.lines[1].mtu = 1400
    keep_busy(world, 1)
    link = world.client.link(1)
    link.path_mtu.doubted(world.now)
    world.run(1)
    assert link.path_mtu.current == BASE_BYTES
    # As by reports on what left before the fall.
    link.capacity.losses.share, link.capacity.carries.mean = 0.4, 1.0
    world.run(0.1)
    assert link.reason == "demoted: 40% loss"
    world.run(4)
    assert (link.path_mtu.current, link.demotion.demoted, link.reason) == (1400, False, "")


def test_an_interface_of_1492_is_never_given_more() -> None:
    line = Line(1, mtu=1492)
    line.interface_mtu = 1492
    world = opened(Line(0), line)
    assert [world.client.link(1).path_mtu.current, world.server.link(1).path_mtu.current] == [1492, 1492]
    assert all(len(one.data) + 28 <= 1492 for one in world.seen if one.line == 1)


def test_what_others_had_queued_is_not_what_a_line_begins_with() -> None:
    """Their download fills a modem for 20 s, and ours begins as it ends: by smoothed round trips of probes
    that line was taken for a long one then, and began accordingly."""
    world = opened(Line(0, delay_s=0.010), Line(1, delay_s=0.090), scheduler="adaptive")
    for delay_s, seconds in ((0.500, 20.0), (0.090, PROBE_IDLE_SERVER_S + 1)):
        world.lines[1].delay_s = delay_s
        world.run(seconds)
    for end in (world.client, world.server):
        assert end is not None
        delays = end.link(1).capacity.delays
        assert delays.base_rtt_s == pytest.approx(0.180, abs=0.005)
        assert delays.srtt_s == pytest.approx(0.180, abs=0.010)


def test_a_thin_direction_is_known_before_it_carries_anything() -> None:
    """DSL with 1 Mbit/s up and 16 down, and a line without a shape: only its uplink looks thin."""
    up, down = Shape(rate_bps=1e6, delay_s=0.015), Shape(rate_bps=16e6, delay_s=0.015)
    dsl = Line(1, rate_bps=0, shape=shape.Line("dsl", up=up, down=down))
    world = opened(Line(0, rate_bps=0), dsl, scheduler="adaptive")
    fast, thin = (world.client.link(number).capacity for number in (0, 1))
    longest = PATH_MTU_DEFAULT_BYTES + ETHERNET_LEN
    assert longest / (longest / thin._thin + LATE_S) * 8 == pytest.approx(1e6, rel=0.1)
    assert thin.window < fast.window == WINDOW_START_BYTES
    assert world.server.link(1).capacity.window == WINDOW_START_BYTES
    payload = PATH_MTU_DEFAULT_BYTES - udp_overhead(ipv6=False)
    asked = Counter((seen.line, seen.to_server) for seen in world.seen if len(seen.data) == payload)
    assert asked == {(0, True): 1, (0, False): 1, (1, True): 1 + TRAIN_PROBES, (1, False): 1}


# -- malformed --------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "sealed",
    [
        b"\3",  # PROBE, cut
        b"\4\0\0",  # PROBE_REPLY, cut
        b"\5" + bytes(5),  # PATH_CHALLENGE, cut
        b"\5" + bytes(18) + b"\xff",  # its name is longer than it
        b"\6" + bytes(3),  # PATH_RESPONSE, cut
        b"\2" + bytes(20),  # FEEDBACK, reserved
        b"\0",
        b"\xff" * 40,
    ],
)
def test_an_authentic_datagram_that_makes_no_sense_changes_nothing(sealed: bytes) -> None:
    world = opened(Line(0))
    link = world.client.link(0)
    before = world.server.count(Drop.SEALED), len(world.seen)
    link.send_control(link.send_lane.seal(sealed), world.now)
    world.run(0.05)
    assert world.all_active()
    assert world.server.link(0).path.address == world.lines[0].address
    if sealed[0] not in (3, 6):
        assert world.server.count(Drop.SEALED) == before[0] + 1


def test_a_lane_beyond_the_last_is_nobodys() -> None:
    world = opened(Line(0))
    keypair = world.client.session.current
    stray = keypair.send_lane(32)
    world.client.link(0).send_control(stray.seal(b"\5" + bytes(19)), world.now)
    world.run(0.05)
    assert world.server.count(Drop.LANE) == 1
    assert sorted(world.server.session.links) == [0]
