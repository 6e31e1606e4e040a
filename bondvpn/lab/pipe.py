"""One direction of a line, sans-IO: a queue, a rate, a delay. Time is an argument, in seconds.

A frame that the policer lets pass, offered at t, leaves the queue at max(t, when the one before it had left)
+ size / rate, and arrives a delay later, or with the one before it: a line does not reorder. These times are
computed, never slept for, so a late timer costs no rate. Random draws come from the shape's seed.
"""

import random
from collections import deque
from enum import StrEnum
from typing import Any

from bondvpn.lab.shape import Shape

ETHERNET_HEADER_BYTES = 14

# Jitter is drawn anew once per this many times its size: a step down then never outlasts its draw, and
# first-in first-out does not pull the mean delay up to its maximum as a draw per frame does.
JITTER_HOLD = 2.0


class Refusal(StrEnum):
    """Why a frame did not get through."""

    CUT = "cut"
    MTU = "mtu"
    QUEUE = "queue"
    LOSS = "loss"
    POLICER = "policer"


class Pipe:
    """A direction of a line with its counters. Frames are Ethernet frames without FCS."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.is_cut = False
        self.frames_in = 0
        self.bytes_in = 0
        self.frames_out = 0
        self.bytes_out = 0
        self.refused = dict.fromkeys(Refusal, 0)
        # Arrives, departs, bytes, frame. First in, first out: one whose time is up waits for those before it.
        self._laid: deque[tuple[float, float, int, bytes | None]] = deque()
        self._busy_until = 0.0
        self._jitter_until = 0.0
        self._jitter = 0.0
        self._losing = False
        self._random = random.Random(shape.seed)
        self._tokens = float(shape.policer_burst_bytes)
        self._tokens_at = 0.0
        self._derive()

    def __len__(self) -> int:
        """Frames queued or on their way."""
        return len(self._laid)

    def offer(self, frame: bytes, now: float) -> Refusal | None:
        """Take a frame that reached the line at `now`; None when it will arrive, else why not."""
        size = len(frame)
        self.frames_in += 1
        self.bytes_in += size
        if self.is_cut:
            return self._refuse(Refusal.CUT)
        if size > self._frame_limit:
            return self._refuse(Refusal.MTU)
        if self._policer_rate and not self._conforms(size, now):
            return self._refuse(Refusal.POLICER)
        departs = now + size * self._seconds_per_byte
        if self._busy_until > now:
            departs += self._busy_until - now
            if departs - now > self._queue_limit_s:
                return self._refuse(Refusal.QUEUE)
        self._busy_until = departs
        lost = self._loss > 0 and self._draw_loss()
        self._lay(departs, size, None if lost else frame, now)
        return self._refuse(Refusal.LOSS) if lost else None

    def due(self, now: float) -> list[bytes]:
        """The frames that have arrived by `now`, in order."""
        laid = self._laid
        frames: list[bytes] = []
        while laid and laid[0][0] <= now:
            frame = laid.popleft()[3]
            if frame is not None:
                frames.append(frame)
                self.bytes_out += len(frame)
        self.frames_out += len(frames)
        return frames

    def next_deadline(self) -> float | None:
        """When `due` has something next; None while the pipe is empty."""
        return self._laid[0][0] if self._laid else None

    def queued_bytes(self, now: float) -> float:
        """What waits for the line to be free, the frame in service counted by what is left of it."""
        if not self._seconds_per_byte or self._busy_until <= now:
            return 0.0
        return (self._busy_until - now) / self._seconds_per_byte

    def reshape(self, shape: Shape, now: float) -> None:
        """Change figures in mid-traffic. Frames that left the queue arrive as they would have; those still in
        it leave at the new rate, the one in service for what is left of it."""
        if shape.seed != self.shape.seed:
            self._random = random.Random(shape.seed)
            self._losing = False
        left = self.queued_bytes(now)
        waiting = [entry for entry in self._laid if entry[1] > now]
        self.shape = shape
        self._derive()
        self._jitter_until = now
        self._busy_until = now
        for _ in waiting:
            self._laid.pop()
        in_service = left - sum(size for _, _, size, _ in waiting[1:])
        for place, (_, _, size, frame) in enumerate(waiting):
            self._busy_until += (size if place else in_service) * self._seconds_per_byte
            self._lay(self._busy_until, size, frame, now)

    def cut(self) -> None:
        """Silence: what is on its way is gone, and so is what comes until `restore`."""
        self.is_cut = True
        self.refused[Refusal.CUT] += sum(entry[3] is not None for entry in self._laid)
        self._laid.clear()
        self._busy_until = 0.0

    def restore(self) -> None:
        self.is_cut = False

    def counters(self, now: float) -> dict[str, Any]:
        """What went in, what came out, what was refused and why, and what is queued now."""
        return {
            "frames_in": self.frames_in,
            "bytes_in": self.bytes_in,
            "frames_out": self.frames_out,
            "bytes_out": self.bytes_out,
            "refused": {str(reason): count for reason, count in self.refused.items()},
            "queued_bytes": round(self.queued_bytes(now)),
            "cut": self.is_cut,
        }

    def _derive(self) -> None:
        shape = self.shape
        self._seconds_per_byte = 8 / shape.rate_bps if shape.rate_bps else 0.0
        self._queue_limit_s = shape.queue_limit_s
        self._frame_limit = shape.mtu + ETHERNET_HEADER_BYTES
        self._loss = shape.loss
        self._policer_rate = shape.policer_bps / 8 if shape.policer_bps else 0.0  # bytes a second

    def _lay(self, departs: float, size: int, frame: bytes | None, now: float) -> None:
        arrives = departs + self.shape.delay_s
        if self.shape.jitter_s:
            arrives += self._draw_jitter(now)
        self._laid.append((arrives, departs, size, frame))

    def _draw_jitter(self, now: float) -> float:
        if now >= self._jitter_until:
            self._jitter = self._random.uniform(-self.shape.jitter_s, self.shape.jitter_s)
            self._jitter_until = now + JITTER_HOLD * self.shape.jitter_s
        return self._jitter

    def _conforms(self, size: int, now: float) -> bool:
        """Take the frame's tokens, if there are enough."""
        filled = self._tokens + (now - self._tokens_at) * self._policer_rate
        self._tokens, self._tokens_at = min(filled, self.shape.policer_burst_bytes), now
        if size > self._tokens:
            return False
        self._tokens -= size
        return True

    def _draw_loss(self) -> bool:
        burst = self.shape.loss_burst
        if burst is None:
            return self._random.random() < self._loss
        # Gilbert's model: leave the losing state with 1 / burst, enter it as often as the mean demands.
        change = 1 / burst if self._losing else min(1.0, self._loss / (burst * (1 - self._loss)))
        if self._random.random() < change:
            self._losing = not self._losing
        return self._losing

    def _refuse(self, reason: Refusal) -> Refusal:
        self.refused[reason] += 1
        return reason
