"""Lost chunks, express frames and their copies on lines whose figures are given, and the simpler policies."""

from figureline import LIMIT, NOW, PLENTY, FigureLine, adaptive

from bondvpn.bond.adaptive import (
    COPY_SHARE,
    ORDER_S,
    RESEND_WINDOW,
    Backup,
    Redundant,
)
from bondvpn.bond.aim import QUEUE_AIM_S


# -- lost chunks, express ---------------------------------------------------------------------------
def test_a_lost_chunk_leaves_by_the_soonest_other_line() -> None:
    near, other, far = FigureLine(delay_s=0.010), FigureLine(delay_s=0.015), FigureLine(delay_s=0.080)
    scheduler = adaptive(far, other, near)
    assert scheduler.soonest(NOW) is near
    assert scheduler.soonest(NOW, near) is other


def test_a_lost_chunk_goes_by_the_loser_again_when_the_others_are_far() -> None:
    near, far = FigureLine(delay_s=0.010), FigureLine(delay_s=0.080)
    assert adaptive(near, far).soonest(NOW, near) is near


def test_but_not_when_it_has_lost_it_twice() -> None:
    near, far = FigureLine(delay_s=0.010), FigureLine(delay_s=0.080)
    assert adaptive(near, far).soonest(NOW, near, tries=2) is far


def test_a_lost_chunk_waits_for_the_pace_or_goes_by_another() -> None:
    """What a full buffer lost would be lost again in a burst."""
    near, far = FigureLine(delay_s=0.010), FigureLine(delay_s=0.030)
    scheduler = adaptive(near, far)
    near.pacer.refill(NOW)
    near.pacer.tokens = -near.capacity.pace * 0.005
    assert scheduler.soonest(NOW) is None, "it has room before the other one could bring it"
    near.pacer.tokens = -near.capacity.pace * 0.050
    assert scheduler.soonest(NOW) is far


def test_a_lost_chunk_may_exceed_the_window_a_little() -> None:
    line = FigureLine(window=100_000, in_flight=120_000)
    scheduler = adaptive(line)
    assert scheduler.next(NOW, PLENTY, LIMIT) is None
    assert scheduler.soonest(NOW) is line
    line.in_flight = int(RESEND_WINDOW * 100_000) + 1
    assert scheduler.soonest(NOW) is None


def test_express_goes_by_the_soonest_and_its_copy_by_the_next() -> None:
    near, far = FigureLine(delay_s=0.010), FigureLine(delay_s=0.030)
    scheduler = adaptive(far, near)
    assert scheduler.express(NOW) is near
    assert scheduler.express(NOW, near) is far
    near.queue_s = near.capacity.delays.queue_s = 0.050
    later = NOW + 2 * ORDER_S
    assert scheduler.express(later) is far
    far.blocked = True
    assert scheduler.express(later, near) is None


def test_express_goes_by_the_line_that_brings_what_is_small_the_soonest() -> None:
    """A full datagram takes 12 ms at 1 Mbit/s, a call's 2.4."""
    thin, far = FigureLine(1e6 / 8, 0.0075), FigureLine(5e6 / 8, 0.0150)
    scheduler = adaptive(far, thin)
    choice = scheduler.next(NOW, PLENTY, LIMIT)
    assert choice is not None
    assert choice.line is far
    assert scheduler.express(NOW) is thin
    assert scheduler.express(NOW, thin) is far


def test_what_is_patient_waits_for_the_soonest_lines_pace() -> None:
    near, far = FigureLine(delay_s=0.010), FigureLine(delay_s=0.030)
    scheduler = adaptive(far, near)
    assert scheduler.patient(NOW) is near
    near.pacer.refill(NOW)
    near.pacer.tokens = -near.capacity.pace * 0.005
    assert scheduler.express(NOW) is near
    assert scheduler.patient(NOW) is None, "it has room before the other one could bring it"
    near.pacer.tokens = -near.capacity.pace * 0.050
    assert scheduler.patient(NOW) is far


def test_what_is_patient_leaves_out_lines_that_have_a_queue_or_a_full_window() -> None:
    near, far = FigureLine(delay_s=0.010), FigureLine(delay_s=0.030)
    scheduler = adaptive(far, near)
    near.capacity.delays.queue_s = 2 * QUEUE_AIM_S
    assert scheduler.express(NOW) is near
    assert scheduler.patient(NOW) is far
    far.capacity.delays.queue_s = 2 * QUEUE_AIM_S
    assert scheduler.patient(NOW) is near
    near.in_flight = int(near.capacity.window)
    assert scheduler.patient(NOW) is far
    far.blocked = True
    assert scheduler.patient(NOW) is None


def test_express_goes_ahead_of_the_pace_but_not_without_end() -> None:
    line = FigureLine()
    scheduler = adaptive(line)
    line.capacity.window = 1_000_000 * line.capacity.delays.srtt_s
    scheduler.express(NOW)
    line.pacer.tokens = -1.0
    assert scheduler.express(NOW) is line
    line.pacer.tokens = -1e6
    assert scheduler.express(NOW) is None


def test_copies_stay_within_their_share_of_what_is_sent() -> None:
    line = FigureLine()
    scheduler = adaptive(line, FigureLine())
    assert not scheduler.copies(100), "nothing was sent"
    copied = sent = 0
    for _ in range(5000):
        scheduler.spent(line, 200)
        sent += 200
        copied += 200 * scheduler.copies(200)
        assert copied <= COPY_SHARE * sent
    assert copied >= 0.9 * COPY_SHARE * sent


def test_a_single_line_makes_no_copies() -> None:
    line = FigureLine()
    scheduler = adaptive(line)
    scheduler.spent(line, 1_000_000)
    assert not scheduler.copies(100)


# -- backup, redundant ------------------------------------------------------------------------------
def test_backup_uses_the_first_line_of_the_best_tier() -> None:
    first, second, lte = (
        FigureLine(number=1),
        FigureLine(number=2, delay_s=0.001),
        FigureLine(number=0, tier=1),
    )
    scheduler: Backup[FigureLine] = Backup()
    scheduler.set_lines([lte, second, first])
    assert scheduler.lines == [first]
    scheduler.set_lines([lte, second])
    assert scheduler.lines == [second]
    scheduler.set_lines([lte])
    choice = scheduler.next(NOW, 1, LIMIT)
    assert choice is not None
    assert choice.line is lte
    scheduler.set_lines([])
    assert scheduler.next(NOW, 1, LIMIT) is None


def test_redundant_sends_by_all_that_have_room() -> None:
    near, far, full, stuck = (
        FigureLine(delay_s=0.010),
        FigureLine(delay_s=0.080, tier=1),
        FigureLine(window=10_000, in_flight=10_000),
        FigureLine(blocked=True),
    )
    scheduler: Redundant[FigureLine] = Redundant()
    scheduler.set_lines([far, full, stuck, near])
    choice = scheduler.next(NOW, 1, LIMIT)
    assert choice is not None
    assert (choice.line, choice.skip) == (near, 0)
    assert scheduler.mirrors(near) == [far]
    near.blocked = True
    choice = scheduler.next(NOW, 1, LIMIT)
    assert choice is not None
    assert choice.line is far
    assert scheduler.mirrors(far) == []
    assert scheduler.spread == [], "the first copy is the one that counts"
