"""A transfer and a probe through a simulated bond, or over one line without it, and what became of them.

Everything between the two TAPs is the real program on a virtual clock (`virtualnet`), the lines are the lab's
pipes, the hosts' TCP is `tcpsender` and `tcpreceiver`. Not simulated: the time that code takes, GSO and GRO
on the outside (datagrams arrive one by one), socket buffers.
"""

import contextlib
import json
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TextIO

from hosts import PORTS, Demux, Host, PlainWorld, Probe, cross_traffic
from scenario import Scenario
from simresult import SAMPLE_S, Result, quantile, summary
from tcpframes import MSS_BYTES
from tcpreceiver import TcpReceiver
from tcpsender import TcpSender
from virtualloop import Clock
from virtualnet import Line, VirtualTap, World

from bondvpn.bond.reorder import Reorder
from bondvpn.lab import shape
from bondvpn.lab.pipe import Pipe

OPEN_WITHIN_S = 10.0
SETTLE_S = 1.0  # the path MTU is found and every link is in use before the transfer starts


class Run:
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
            sender.window = scenario.window_bytes // MSS_BYTES
            receiver = TcpReceiver(clock, far.emit, from_server=not server, ports=(ports[1], ports[0]))
            near.tcp[ports[0]] = sender
            far.tcp[ports[1]] = receiver
            self.senders.append(sender)
            self.receivers.append(receiver)
        if len(self.senders) > 1:
            Demux(near, self.senders)
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
    near_end, far_end = (client, server) if scenario.upload else (server, client)
    tap: VirtualTap = near_end.tap
    run = Run(scenario, world.clock, near, far, lambda: tap.gso_bytes)
    if scenario.cross is not None:
        number, cc = scenario.cross
        run.cross = cross_traffic(world, lines[number], cc)
    world.wait(world.all_active, OPEN_WITHIN_S)
    world.run(SETTLE_S)
    for at, event in scenario.events:
        world.at(world.now + at, lambda event=event: event(world))
    pipes = [line.pipes[scenario.upload] for line in lines]
    with holds_of() as holds:
        result = _measure(run, pipes, lambda: _traced(world, near_end, run, look), world, trace)
    chunks = sum(link.rx_datagrams for link in far_end.session.links.values())
    waits = [*holds, *([0.0] * max(0, chunks - len(holds)))]
    result.hold_p50_s, result.hold_p99_s = quantile(waits, 0.5), quantile(waits, 0.99)
    result.tap_drops = tap.dropped
    result.drops = {
        f"{name}.{reason}": count
        for name, end in (("client", client), ("server", server))
        for reason, count in end.dropped.items()
    }
    return result


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
    run = Run(scenario, world.clock, near, far, lambda: 65_000)
    pipe = world.pipes[scenario.upload]
    return _measure(run, [pipe], dict, world, None)


def _traced(
    world: World, end: Any, run: Run, look: Callable[[World], dict[str, Any]] | None
) -> dict[str, Any]:
    """The bond's part of a trace line."""
    row: dict[str, Any] = {"queued": end._out.queued, "tap": len(end.tap.frames)}
    row["links"] = [
        {
            "state": link.liveness.state.value,
            "srtt": round(link.srtt_s, 4),
            "phase": link.capacity.phase.value,
            "learned": round(link.capacity.rate * 8),
            "window": round(link.capacity.window),
            "in_flight": link.in_flight,
            "base_rtt": round(link.capacity.delays.base_rtt_s, 4),
            "queue_s": round(link.capacity.delays.queue_s, 4),
            "loss": round(link.capacity.loss, 4),
            "report_s": round(link.capacity.report_s, 4),
            "demoted": link.demotion.demoted,
            "tokens": round(min(link.pacer.tokens, 1e9)),
        }
        for link in sorted(end.session.links.values(), key=lambda link: link.number)
    ]
    row.update(look(world) if look is not None else {})
    return row


def _measure(
    run: Run, pipes: Sequence[Pipe], look: Callable[[], dict[str, Any]], world: Any, trace: TextIO | None
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
    result = summary(run, pipes, sums, queues, at_skip, out_at_skip)
    result.retransmitted = run.resent() - resent_at_skip
    if run.cross is not None:
        segments = run.cross.delivered - cross_at_skip
        result.cross_bps = segments * MSS_BYTES * 8 / (scenario.seconds - scenario.skip_s)
    return result


@contextlib.contextmanager
def holds_of() -> Iterator[list[float]]:
    """How long each chunk was held behind a gap, what equalisation asks for left out; of both ends."""
    holds: list[float] = []
    plain = Reorder.pop

    def pop(self: Reorder[Any], now: float) -> Any:
        entry = self.held.get(self.expected)
        if entry is not None and entry[1] <= now:
            holds.append(now - max(entry[0], entry[1]))
        return plain(self, now)

    Reorder.pop = pop  # type: ignore[method-assign]
    try:
        yield holds
    finally:
        Reorder.pop = plain  # type: ignore[method-assign]
