"""How fast what may be under way leaves: the pace of one line. Rates: bytes a second; times: seconds.

The window says how much may be under way; R is the largest rate delivered lately (bond.capacity).

    phase, buffer         pace
    STARTUP               PACE_STARTUP x window / RTT: it must not hold back what doubles inside
    no queue of its own   PACE x window / RTT
    shallow buffer        PACE_SHALLOW or PACE_SHALLOW_UP x R, whatever the window
    full                  PACE_FULL x R at the most
    else                  PACE x window / what a window takes with the present queue
"""

from bondvpn.bond.aim import QUEUE_AIM_FAST_DATAGRAMS, QUEUE_AIM_S

# Room to catch up after a late wake-up. At 1.2 a window leaves in bursts that a buffer of 6 ms cannot take
# (measured: 0.84 of Σ).
PACE = 1.1
PACE_STARTUP = 4.0  # cubic takes 16 ms for a queue (HyStart)
# A fast line is full while its queue is within these shares of the one aimed at. A window that leaves as it
# may lets the modem run dry before each report and fills it after (50 Mbit/s beside 16 and 30: a datagram met
# 8.5 ms there at p99, now 5; a probe beside a transfer had 32 ms and has 29).
PACE_FULL = 1.03
FULL_QUEUE_MIN, FULL_QUEUE_MAX = 0.25, 2.0
# From 24 Mbit/s on: what slower ones carry is told too coarsely for it.
FULL_DATAGRAM_S = QUEUE_AIM_S / QUEUE_AIM_FAST_DATAGRAMS
# Near the window that lost a moment ago, and else (as BBR probes). With 1.02, 2.3 % random loss wears R down
# (0.73 of the rate); with 1.05 the 4 % it costs are 0.2 of Σ where all other lines are thin (0.06 with 1.03;
# simulated).
PACE_SHALLOW, PACE_SHALLOW_UP = 1.03, 1.25
MIN_S = 0.001  # in dividing by it


def startup(window: float, rtt_s: float, at_most: float) -> float:
    """Of a line of which no more is known than that it carries `at_most`."""
    return PACE_STARTUP * min(window / max(rtt_s, MIN_S), at_most)


def at_once(window: float, rtt_s: float) -> float:
    """Of one whose queue, if any, is in the other end's socket."""
    return PACE * window / max(rtt_s, MIN_S)


def shallow(rate: float, *, careful: bool) -> float:
    """Of one that carries `rate` and whose buffer does not hold q*; `careful`: near the window that lost."""
    return (PACE_SHALLOW if careful else PACE_SHALLOW_UP) * rate


def evenly(window: float, span_s: float, rtt_s: float, rate: float) -> float:
    """Of one that carries `rate` and takes `span_s` for a window, with the present queue. Reports that were
    seldom while little was sent must not slow down what begins now."""
    return min(max(PACE * window / max(span_s, MIN_S), rate), at_once(window, rtt_s))


def full(queue_s: float, aim_s: float, datagram_s: float) -> bool:
    """Whether about the queue aimed at stands in a fast line, so that R is what it carries."""
    return datagram_s <= FULL_DATAGRAM_S and FULL_QUEUE_MIN * aim_s < queue_s < FULL_QUEUE_MAX * aim_s
