"""Commands of the administrator's, run when a tunnel or a link comes or goes.

    tunnel's links --> Announcer: what changed --> Hooks: a queue --> a thread: one command after the other

The loop only ever puts into the queue; commands are started and waited for in a thread of their own, one at
a time, so that no `down` overtakes its `up`. What a command prints goes to our stderr. One that fails, or
takes longer than its timeout and is killed for it, is logged; nothing else comes of it.
"""

import contextlib
import logging
import os
import queue
import signal
import subprocess
import threading
from collections.abc import Collection, Mapping
from typing import Literal

from bondvpn import config
from bondvpn.session.link import Link

log = logging.getLogger(__name__)

Event = Literal["up", "down", "link_up", "link_down"]

WAITING_MAX = 64  # events behind a command that hangs: a flapping line must not fill the memory
KILL_S = 1.0  # between SIGTERM and SIGKILL
STDERR_FILENO = 2
LAST_WORDS_S = 2.0  # for what is due at the end; a supervisor kills after 3 s


class Hooks:
    """Runs the commands of one process."""

    def __init__(self, commands: config.Hooks, role: Literal["client", "server"]) -> None:
        self.commands = commands
        """May be replaced at any time; what waits runs as it was."""
        self._role = role
        self._queue: queue.Queue[tuple[Event, tuple[str, ...], dict[str, str]] | None] = queue.Queue()
        self._thread: threading.Thread | None = None

    def announcer(self, tunnel: str, interface: str) -> "Announcer":
        """What tells of the changes of one tunnel."""
        return Announcer(self, tunnel, interface)

    def happened(self, event: Event, facts: Mapping[str, str]) -> None:
        """Run the event's command, if there is one; `facts` become BONDVPN_* for it. Never waits."""
        argv: tuple[str, ...] = getattr(self.commands, event)
        if not argv:
            return
        if self._queue.qsize() >= WAITING_MAX:
            log.warning("hook %s: %d wait already: not run", event, WAITING_MAX)
            return
        if self._thread is None:  # not before it is needed: a worker's signals are blocked while it starts
            self._thread = threading.Thread(target=self._work, name="hooks", daemon=True)
            self._thread.start()
        said = {"EVENT": event, "ROLE": self._role, **facts}
        self._queue.put((event, argv, {f"BONDVPN_{key}": value for key, value in said.items()}))

    def close(self) -> None:
        """Wait for what is due, a little; blocks. A command that runs on then is left alone."""
        if self._thread is None:
            return
        self._queue.put(None)
        self._thread.join(LAST_WORDS_S)
        if self._thread.is_alive():
            log.warning("hooks: one still runs after %g s: not waited for", LAST_WORDS_S)

    def _work(self) -> None:
        while (due := self._queue.get()) is not None:
            self._run(*due)

    def _run(self, event: Event, argv: tuple[str, ...], facts: dict[str, str]) -> None:
        timeout_s = self.commands.timeout_s
        try:
            process = subprocess.Popen(
                argv,
                env=os.environ | facts,
                stdin=subprocess.DEVNULL,
                stdout=STDERR_FILENO,
                start_new_session=True,
            )
        except (OSError, ValueError) as fault:
            log.warning("hook %s: %s: %s", event, argv[0], getattr(fault, "strerror", None) or fault)
            return
        try:
            status = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            _end(process)
            log.warning("hook %s: %s: killed after %g s", event, argv[0], timeout_s)
            return
        if status:
            ended = f"ended by signal {-status}" if status < 0 else f"exit status {status}"
            log.warning("hook %s: %s: %s", event, argv[0], ended)


def _end(process: subprocess.Popen[bytes]) -> None:
    """It and what it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(KILL_S)
            return


class Announcer:
    """Tells what changed since it was last told which links are active.

    A tunnel is up while at least one link is: `link_up` comes before its `up`, `down` after its `link_down`.
    """

    def __init__(self, hooks: Hooks, tunnel: str, interface: str) -> None:
        self._hooks = hooks
        self._facts = {"TUNNEL": tunnel, "INTERFACE": interface}
        self._active: list[str] = []

    def links(self, links: Collection[Link], reason: str = "") -> None:
        """The links as they are now; `reason`: why those are gone that are missing."""
        reasons = {link.name: link.reason for link in links}
        before, now = self._active, [link.name for link in links if link.active]
        self._active = now
        for name in before:
            if name not in now:
                self._tell("link_down", LINK=name, REASON=reasons.get(name, reason))
        for name in now:
            if name not in before:
                self._tell("link_up", LINK=name)
        if bool(before) != bool(now):
            self._tell("up" if now else "down", REASON="" if now else reason)

    def _tell(self, event: Event, **facts: str) -> None:
        self._hooks.happened(event, {**self._facts, "LINKS_ACTIVE": " ".join(self._active), **facts})
