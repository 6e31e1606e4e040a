"""A transfer and a probe through a simulated bond, or over one line without it, and what became of them.

Everything between the two TAPs is the real program on a virtual clock (`virtualnet`), the lines are the lab's
pipes, the hosts are `tcpends`. Not simulated: the time that code takes, GSO and GRO on the outside (datagrams
arrive one by one), socket buffers.
"""

import contextlib
import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any, TextIO

from tcpends import TcpReceiver, TcpSender
from tcpframes import MSS_BYTES, UDP, cut, datagram, head_of, numbers_of, parse, protocol_of
from virtualloop import Clock
from virtualnet import Line, VirtualTap, World

from bondvpn.bond.reorder import Reorder
from bondvpn.lab import shape
from bondvpn.lab.pipe import Pipe
from bondvpn.lab.shape import Shape

FULL_FRAME_BYTES = 1514
PORTS = (443, 40_000)
VIRTIO_BYTES = 10
PROBE_PORT = 9
PROBE_BYTES = 142
SAMPLE_S = 0.05
STANDSTILL_BPS = 1.0
OPEN_WITHIN_S = 10.0
SETTLE_S = 1.0  # the path MTU is found and every link is in use before the transfer starts


@dataclass
class Scenario:
    """Lines (each `shape.Line`), what runs over them, and for how long (seconds).

    `cc`: one congestion control for all flows, or one for each: "cubic+bbr". `cross`: (line, cc) of a
    download by another host behind the same modem, all the time.
    """

    lines: Sequence[shape.Line]
    cc: str = "cubic"
    seconds: float = 20.0
    skip_s: float = 3.0  # of the transfer's start, left out of the rates
    seed: int = 1
    upload: bool = False
    flows: int = 1
    stagger_s: float = 0.0  # between the starts of two flows
    cross: tuple[int, str] | None = None
    scheduler: str = "weighted"
    speeds: bool = True  # whether the lines' speeds are configured
    probe_hz: float = 50.0
    probe_dscp: int = 0
    events: Sequence[tuple[float, Callable[[World], None]]] = ()

    @property
    def ccs(self) -> list[str]:
        """Of each flow."""
        each = self.cc.split("+")
        return each if len(each) > 1 else each * self.flows

    def direction(self, line: shape.Line) -> Shape:
        """Of the transfer."""
        found = line.up if self.upload else line.down
        assert found is not None
        return found

    @property
    def capacities(self) -> list[float]:
        """bit/s that TCP would get from each line if its loss were repaired."""
        shapes = [self.direction(line) for line in self.lines]
        return [(one.rate_bps or 0.0) * MSS_BYTES / FULL_FRAME_BYTES * (1 - one.loss) for one in shapes]


@dataclass
class Result:
    """Rates in bit/s, times in seconds; what is per line is in the lines' order.

    Rates, shares, queues and `retransmitted` leave out the first `skip_s`, as iperf3's `-O`; all else is of
    the whole run.
    """

    goodput_bps: float = 0.0
    share: float = 0.0  # of the sum
    eab: float = 0.0
    to_90_s: float | None = None
    first_second_share: float = 0.0  # of the final rate
    retransmitted: int = 0
    timeouts: int = 0
    recoveries: int = 0
    undone: int = 0
    tap_drops: int = 0
    silence_s: float = 0.0
    carried: list[float] = field(default_factory=list)  # share of the bytes
    used: list[float] = field(default_factory=list)  # share of each line's rate
    queue_p99_s: list[float] = field(default_factory=list)  # in the modem
    lost: list[int] = field(default_factory=list)
    overflowed: list[int] = field(default_factory=list)
    probe_p50_s: float | None = None
    probe_p99_s: float | None = None
    probe_lost: int = 0
    probe_silence_s: float = 0.0
    hold_p50_s: float = 0.0
    hold_p99_s: float = 0.0
    jain: float = 1.0
    cross_bps: float = 0.0
    drops: dict[str, int] = field(default_factory=dict)
    flows_bps: list[float] = field(default_factory=list)


def quantile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else 0.0


def eab(goodput: float, capacities: Sequence[float]) -> float:
    """Experimental aggregation benefit: 1 is the sum, 0 the best line."""
    best, total = max(capacities), sum(capacities)
    if goodput < best:
        return (goodput - best) / best
    return (goodput - best) / (total - best) if total > best else 0.0


class Host:
    """What stands behind one end: TCP by ports, and the probe."""

    def __init__(self, clock: Clock, emit: Callable[[bytes], Any]) -> None:
        self.clock = clock
        self.emit = emit
        self.tcp: dict[int, TcpSender | TcpReceiver] = {}  # by the port it listens at
        self.on_datagram: Callable[[int], None] = lambda number: None

    def take(self, parts: Sequence[Any]) -> None:
        """A frame from the network."""
        head, length = head_of(parts)
        if protocol_of(head) == UDP:
            for _, number in numbers_of(head, length, PROBE_BYTES):
                self.on_datagram(number)
            return
        one = parse(head, length)
        self.tcp[one.target].receive(one)


class Probe:
    """A constant rate of small datagrams that the other host sends back."""

    def __init__(self, near: Host, far: Host, hz: float, *, near_is_server: bool, dscp: int = 0) -> None:
        self.clock = near.clock
        self.near = near
        self.interval = 1 / hz
        self.sent: list[float] = []
        self.arrived: dict[int, float] = {}  # at the far host
        self.back: dict[int, float] = {}
        self.until = float("inf")
        self._make = lambda number: datagram(near_is_server, PROBE_PORT, number, PROBE_BYTES, dscp)

        def echo(number: int) -> None:
            self.arrived.setdefault(number, self.clock.now)
            far.emit(datagram(not near_is_server, PROBE_PORT, number, PROBE_BYTES, dscp))

        def returned(number: int) -> None:
            self.back.setdefault(number, self.clock.now)

        far.on_datagram, near.on_datagram = echo, returned

    def start(self) -> None:
        if self.clock.now >= self.until:
            return
        self.sent.append(self.clock.now)
        self.near.emit(self._make(len(self.sent) - 1))
        self.clock.at(self.clock.now + self.interval, self.start)


@contextlib.contextmanager
def holds_of(clock: Clock) -> Iterator[list[float]]:
    """How long each chunk was held behind a gap, 0 left out; of both ends."""
    holds: list[float] = []
    plain = Reorder.pop

    def pop(self: Reorder[Any]) -> Any:
        entry = self.held.get(self.expected)
        if entry is not None:
            holds.append(clock.now - entry[0])
        return plain(self)

    Reorder.pop = pop  # type: ignore[method-assign]
    try:
        yield holds
    finally:
        Reorder.pop = plain  # type: ignore[method-assign]


class _Run:
    """One scenario under way."""

    def __init__(
        self, scenario: Scenario, clock: Clock, near: Host, far: Host, gso: Callable[[], int]
    ) -> None:
        self.scenario = scenario
        self.clock = clock
        rng = random.Random(scenario.seed)
        server = not scenario.upload
        self.senders: list[TcpSender] = []
        self.receivers: list[TcpReceiver] = []
        for i, cc in enumerate(scenario.ccs):
            ports = PORTS[0], PORTS[1] + i
            sender = TcpSender(
                clock,
                near.emit,
                from_server=server,
                ports=ports,
                cc=cc,
                gso_bytes=gso,
                random=rng.randrange,
            )
            receiver = TcpReceiver(clock, far.emit, from_server=not server, ports=(ports[1], ports[0]))
            near.tcp[ports[0]] = sender
            far.tcp[ports[1]] = receiver
            self.senders.append(sender)
            self.receivers.append(receiver)
        if len(self.senders) > 1:
            _Demux(near, self.senders)
        self.cross: TcpReceiver | None = None
        self.probe: Probe | None = None
        if scenario.probe_hz:
            self.probe = Probe(near, far, scenario.probe_hz, near_is_server=server, dscp=scenario.probe_dscp)

    def start(self) -> None:
        self.senders[0].start()
        for i, sender in enumerate(self.senders[1:], 1):
            self.clock.at(self.clock.now + i * self.scenario.stagger_s, sender.start)
        if self.probe is not None:
            self.probe.until = self.clock.now + self.scenario.seconds - 1.0
            self.probe.start()

    def resent(self) -> int:
        return sum(sender.retransmitted for sender in self.senders)

    def delivered_bits(self) -> list[float]:
        return [receiver.delivered * MSS_BYTES * 8.0 for receiver in self.receivers]


class _Demux:
    """Several connections from one port."""

    def __init__(self, host: Host, senders: Sequence[TcpSender]) -> None:
        by_peer = {sender.ports[1]: sender for sender in senders}

        def receive(one: Any) -> None:
            by_peer[one.source].receive(one)

        self.receive = receive
        host.tcp[PORTS[0]] = self  # type: ignore[assignment]


def simulate(
    scenario: Scenario, trace: TextIO | None = None, look: Callable[[World], dict[str, Any]] | None = None
) -> Result:
    """The scenario through the bond. `trace` gets a JSON line each 50 ms; `look` may add to it."""
    lines = [_line(i, one, configured=scenario.speeds) for i, one in enumerate(scenario.lines)]
    world = World(lines, seed=scenario.seed, quiet=True)
    world.record = False
    server = world.start_server(scheduler=scenario.scheduler)
    client = world.start_client(scheduler=scenario.scheduler)
    hosts = []
    for end in (server, client):
        host = Host(world.clock, end.tap.offer)
        end.tap.sink = host.take
        hosts.append(host)
    near, far = hosts[::-1] if scenario.upload else hosts
    near_end = client if scenario.upload else server
    tap: VirtualTap = near_end.tap
    run = _Run(scenario, world.clock, near, far, lambda: tap.gso_bytes)
    if scenario.cross is not None:
        number, cc = scenario.cross
        run.cross = cross_traffic(world, lines[number], cc)
    world.wait(world.all_active, OPEN_WITHIN_S)
    world.run(SETTLE_S)
    for at, event in scenario.events:
        world.at(world.now + at, lambda event=event: event(world))
    pipes = [line.pipes[scenario.upload] for line in lines]
    with holds_of(world.clock) as holds:
        result = _measure(run, pipes, lambda: _traced(world, near_end, run, look), world, trace)
    chunks = sum(link.rx_datagrams for end in (client, server) for link in end.session.links.values())
    waits = [*holds, *([0.0] * max(0, chunks - len(holds)))]
    result.hold_p50_s, result.hold_p99_s = quantile(waits, 0.5), quantile(waits, 0.99)
    result.tap_drops = tap.dropped
    result.drops = {
        f"{name}.{reason}": count
        for name, end in (("client", client), ("server", server))
        for reason, count in end.dropped.items()
    }
    return result


def cross_traffic(world: World, line: Line, cc: str) -> TcpReceiver:
    """Another host's download through the same modem, from now on."""

    def on_line(to_server: bool, other: list[Host]) -> Callable[[bytes], None]:
        def emit(frame: bytes) -> None:
            for packet in cut(frame):
                size = len(packet) - VIRTIO_BYTES
                world.share(line, size, lambda packet=packet: other[0].take([packet]), to_server=to_server)

        return emit

    clients: list[Host] = []
    servers: list[Host] = []
    clients.append(Host(world.clock, on_line(True, servers)))
    servers.append(Host(world.clock, on_line(False, clients)))
    sender = TcpSender(world.clock, servers[0].emit, from_server=True, ports=PORTS, cc=cc)
    receiver = TcpReceiver(world.clock, clients[0].emit, from_server=False, ports=PORTS[::-1])
    servers[0].tcp[PORTS[0]] = sender
    clients[0].tcp[PORTS[1]] = receiver
    sender.start()
    return receiver


def _line(number: int, one: shape.Line, *, configured: bool) -> Line:
    assert one.up is not None
    assert one.down is not None
    up, down = (one.up.rate_bps or 0, one.down.rate_bps or 0) if configured else (0, 0)
    return Line(number, shape=one, rate_bps=int(up), down_bps=int(down))


def simulate_plain(scenario: Scenario) -> Result:
    """The scenario over its first line without a bond: the yardstick."""
    (line, *_) = scenario.lines
    world = PlainWorld(line)
    near, far = (world.client, world.server) if scenario.upload else (world.server, world.client)
    run = _Run(scenario, world.clock, near, far, lambda: 65_000)
    pipe = world.pipes[scenario.upload]
    return _measure(run, [pipe], dict, world, None)


class PlainWorld:
    """Two hosts and a line between them: frames are cut into packets, as a kernel does."""

    def __init__(self, line: shape.Line) -> None:
        self.clock = Clock()
        self.pipes = {True: Pipe(line.up or Shape()), False: Pipe(line.down or Shape())}
        self.client = Host(self.clock, lambda frame: self._carry(frame, True))
        self.server = Host(self.clock, lambda frame: self._carry(frame, False))
        self._due = {True: float("inf"), False: float("inf")}

    def run(self, seconds: float) -> None:
        end = self.clock.now + seconds
        while self.clock.step(end):
            pass
        self.clock.now = end

    def _carry(self, frame: bytes, to_server: bool) -> None:
        for packet in cut(frame):
            self.pipes[to_server].offer(packet[VIRTIO_BYTES:], self.clock.now)
        self._pump(to_server)

    def _pump(self, to_server: bool) -> None:
        due = self.pipes[to_server].next_deadline()
        if due is not None and due < self._due[to_server]:
            self._due[to_server] = due
            self.clock.at(due, lambda: self._drain(to_server))

    def _drain(self, to_server: bool) -> None:
        self._due[to_server] = float("inf")
        host = self.server if to_server else self.client
        for packet in self.pipes[to_server].due(self.clock.now):
            host.take([bytes(VIRTIO_BYTES) + packet])
        self._pump(to_server)


def _traced(
    world: World, end: Any, run: _Run, look: Callable[[World], dict[str, Any]] | None
) -> dict[str, Any]:
    """The bond's part of a trace line."""
    row: dict[str, Any] = {"queued": end._out.queued, "tap": len(end.tap.frames)}
    row.update(look(world) if look is not None else {})
    return row


def _measure(
    run: _Run, pipes: Sequence[Pipe], look: Callable[[], dict[str, Any]], world: Any, trace: TextIO | None
) -> Result:
    scenario, clock = run.scenario, run.clock
    run.start()
    start = clock.now
    sums = [0.0]
    queues: list[list[float]] = [[] for _ in pipes]
    at_skip = run.delivered_bits()
    out_at_skip = [pipe.bytes_out for pipe in pipes]
    resent_at_skip = cross_at_skip = 0
    out_before = list(out_at_skip)
    rates = [pipe.shape.rate_bps or 1e12 for pipe in pipes]  # as they are at the start
    steps = round(scenario.seconds / SAMPLE_S)
    skip = round(scenario.skip_s / SAMPLE_S)
    for step in range(1, steps + 1):
        world.run(start + step * SAMPLE_S - clock.now)
        now = clock.now
        sums.append(sum(run.delivered_bits()))
        waiting = [pipe.queued_bytes(now) * 8 / rate for pipe, rate in zip(pipes, rates, strict=True)]
        if step == skip:
            at_skip = run.delivered_bits()
            out_at_skip = [pipe.bytes_out for pipe in pipes]
            resent_at_skip = run.resent()
            cross_at_skip = run.cross.delivered if run.cross is not None else 0
        if step > skip:
            for samples, wait in zip(queues, waiting, strict=True):
                samples.append(wait)
        if trace is not None:
            out = [pipe.bytes_out for pipe in pipes]
            row = {
                "t": round(now - start, 3),
                "goodput": (sums[-1] - sums[-2]) / SAMPLE_S,
                "flows": [
                    {
                        "cwnd": round(sender.cwnd, 1),
                        "ssthresh": min(sender.ssthresh, 1e9),
                        "in_flight": sender.in_flight,
                        "state": sender.state,
                        "srtt": round(sender.srtt, 4),
                        "retransmitted": sender.retransmitted,
                    }
                    for sender in run.senders
                ],
                "lines": [
                    {"rate": (one - before) * 8 / SAMPLE_S, "queue_s": round(wait, 4), "in_pipe": len(pipe)}
                    for one, before, wait, pipe in zip(out, out_before, waiting, pipes, strict=True)
                ],
                **look(),
            }
            trace.write(json.dumps(row) + "\n")
            out_before = out
    result = _summary(run, pipes, sums, queues, at_skip, out_at_skip)
    result.retransmitted = run.resent() - resent_at_skip
    if run.cross is not None:
        segments = run.cross.delivered - cross_at_skip
        result.cross_bps = segments * MSS_BYTES * 8 / (scenario.seconds - scenario.skip_s)
    return result


def _summary(
    run: _Run,
    pipes: Sequence[Pipe],
    sums: Sequence[float],
    queues: Sequence[Sequence[float]],
    at_skip: Sequence[float],
    out_at_skip: Sequence[int],
) -> Result:
    scenario = run.scenario
    result = Result()
    span = scenario.seconds - scenario.skip_s
    result.flows_bps = [
        (bits - before) / span for bits, before in zip(run.delivered_bits(), at_skip, strict=True)
    ]
    capacities = scenario.capacities[: len(pipes)]
    total = result.goodput_bps = sum(result.flows_bps)
    result.share = total / sum(capacities) if sum(capacities) else 0.0
    result.eab = eab(total, capacities) if sum(capacities) else 0.0
    squares = sum(rate * rate for rate in result.flows_bps)
    result.jain = total * total / (len(result.flows_bps) * squares) if squares else 0.0
    per_s = round(1 / SAMPLE_S)
    if len(sums) > per_s and total:
        result.first_second_share = sums[per_s] / total
        window = per_s // 2
        for i in range(window, len(sums)):
            if (sums[i] - sums[i - window]) / (window * SAMPLE_S) >= 0.9 * total:
                result.to_90_s = (i - window / 2) * SAMPLE_S
                break
    result.timeouts = sum(sender.timeouts for sender in run.senders)
    result.recoveries = sum(sender.recoveries for sender in run.senders)
    result.undone = sum(sender.undone for sender in run.senders)
    result.silence_s = max(receiver.silence_s for receiver in run.receivers)
    carried = [pipe.bytes_out - before for pipe, before in zip(pipes, out_at_skip, strict=True)]
    result.carried = [one / max(sum(carried), 1) for one in carried]
    rates = [scenario.direction(line).rate_bps or 1e12 for line in scenario.lines]
    result.used = [one * 8 / span / rate for one, rate in zip(carried, rates, strict=False)]
    result.queue_p99_s = [quantile(samples, 0.99) for samples in queues]
    result.lost = [pipe.refused["loss"] for pipe in pipes]
    result.overflowed = [pipe.refused["queue"] for pipe in pipes]
    if run.probe is not None:
        _probe_summary(result, run.probe)
    return result


def _probe_summary(result: Result, probe: Probe) -> None:
    rtts = [at - probe.sent[number] for number, at in probe.back.items()]
    result.probe_p50_s, result.probe_p99_s = quantile(rtts, 0.5), quantile(rtts, 0.99)
    result.probe_lost = len(probe.sent) - len(probe.back)
    arrivals = sorted(probe.arrived.values())
    result.probe_silence_s = max((later - earlier for earlier, later in pairwise(arrivals)), default=0.0)


def as_dict(result: Result) -> dict[str, Any]:
    return asdict(result)


def variations(
    number: int, line: shape.Line, kind: str, *, amount: float, period_s: float, seconds: float, seed: int = 1
) -> list[tuple[float, Callable[[World], None]]]:
    """Events for `Scenario.events`: line `number` changes all the time, by its seed.

    "rate": each `period_s` another rate, uniform within ± `amount` (a share). "gap": about every `period_s`
    (exponential) nothing leaves the queue for `amount` seconds. "delay": each `period_s` a delay up to
    `amount` seconds longer.
    """
    rng = random.Random(seed * 7919 + number)
    events: list[tuple[float, Callable[[World], None]]] = []

    def change(at: float, figure: Callable[[Shape], dict[str, Any]]) -> None:
        def happen(world: World) -> None:
            for to_server, plain in ((True, line.up), (False, line.down)):
                if plain is not None:
                    world.reshape(world.lines[number], to_server=to_server, **figure(plain))

        events.append((at, happen))

    at = 0.0
    while True:
        at += rng.expovariate(1 / period_s) if kind == "gap" else period_s
        if at >= seconds:
            return events
        if kind == "rate":
            factor = 1 + rng.uniform(-amount, amount)
            change(at, lambda plain, factor=factor: _at_rate(plain, (plain.rate_bps or 0) * factor))
        elif kind == "delay":
            more = rng.uniform(0, amount)
            change(at, lambda plain, more=more: {"delay_s": plain.delay_s + more})
        elif kind == "gap":
            change(at, lambda plain: _at_rate(plain, STANDSTILL_BPS))
            at += amount
            change(at, lambda plain: _at_rate(plain, plain.rate_bps))
        else:
            raise ValueError(f"{kind!r}: not one of rate, gap, delay")


def _at_rate(plain: Shape, rate_bps: float | None) -> dict[str, Any]:
    """A modem's memory does not shrink with its rate."""
    return {"rate_bps": rate_bps, "queue_bytes": round((plain.rate_bps or 0) / 8 * plain.queue_limit_s)}
