"""The parent of a server's worker processes: it forks, watches and ends them, and speaks for all of them.

It has no event loop and no threads, so that it may fork at any time, and it carries nothing: it holds what
must outlive a worker, the sockets in their steered order and the inboxes. A worker that ends unasked is
forked anew; its clients notice their silence and shake hands again, the other workers' notice nothing.

    spawn -> {"ready"} -> works -> gone -> RESTART_S -> spawn
    spawn -> {"fault"} or gone: the first time nothing starts, later again after RETRY_S
"""

import gc
import logging
import os
import selectors
import signal
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any, NoReturn

import msgspec

from bondvpn.config import SERVER_SOCKET, Client, Hooks, ServerConfig
from bondvpn.errors import SystemFault
from bondvpn.linux import process
from bondvpn.linux.reuseport import Steering, bind_group
from bondvpn.linux.sysctl import has_ipv6
from bondvpn.linux.udp import UdpSocket
from bondvpn.runtime import status
from bondvpn.runtime.channel import SIGNALS, ParentEnd, report_fault
from bondvpn.runtime.control import PolledControlSocket
from bondvpn.runtime.handover import Handover, Inbox
from bondvpn.runtime.reload import ServerReload, tell
from bondvpn.wire import transport

log = logging.getLogger(__name__)

RESTART_S = 0.1  # a signal to all of us at once (systemd, Ctrl-C) reaches the parent within that
RETRY_S = 1.0
STOP_S = 3.0  # a worker says goodbye within milliseconds
NEVER = float("inf")
STATUS_S = 1.0  # below the 3 s that `bondvpn status` waits

# A transport datagram's lane index and an initiation's sender index stand at one place. Of both the lane's
# bits are left out: the copies of one initiation, from all lines of a client, so meet in one worker.
STEERING = Steering(transport.PREFIX_LEN - 4, transport.LANE_BITS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What one worker works on."""

    number: int
    workers: int
    clients: Sequence[Client]
    sockets: Sequence[UdpSocket]
    handover: Handover
    parent: socket.socket


class _Worker:
    """One worker, whichever process it is at present."""

    def __init__(self, number: int, clients: Sequence[Client]) -> None:
        self.number = number
        self.clients = clients
        self.inbox = Inbox()
        self.channel: ParentEnd | None = None
        self.pid = 0
        self.ready = False
        self.restarts = -1
        self.due = 0.0  # when it is forked, while there is no process
        self.fault = ""  # why it cannot work, in its own words
        self.why = ""  # what became of its last process

    @property
    def runs(self) -> bool:
        return self.channel is not None


def supervise(config: ServerConfig, workers: int, work: Callable[[Share], int], reload: ServerReload) -> int:
    """Run `work` in that many processes until SIGTERM or SIGINT; the exit code. SIGHUP does `reload`.

    Raises SystemFault when they cannot start.
    """
    supervisor = _Supervisor(config, workers, work, reload)
    try:
        return supervisor.run()
    finally:
        supervisor.close()


class _Supervisor:
    def __init__(
        self, config: ServerConfig, workers: int, work: Callable[[Share], int], reload: ServerReload
    ) -> None:
        self._config = config
        self._reload = reload
        self._reload.deliver = self._deliver
        self._hung_up = False
        self._work = work
        self._workers = [_Worker(number, config.clients[number::workers]) for number in range(workers)]
        self._selector = selectors.DefaultSelector()
        self._groups: list[list[UdpSocket]] = []
        self._control: PolledControlSocket | None = None
        self._stopping = False
        self._stop_by = 0.0
        self._exit_code = 0
        self._fault = ""
        self._asked = 0
        self._machine_due = NEVER  # when the machine is looked at without an event
        self._woken, self._wake = socket.socketpair()
        self._woken.setblocking(False)
        self._wake.setblocking(False)

    # -- life -----------------------------------------------------------------------------------
    def run(self) -> int:
        self._selector.register(self._woken, selectors.EVENT_READ, self._on_wake)
        signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
        for number in SIGNALS:
            signal.signal(number, self._on_signal)
        signal.signal(signal.SIGHUP, self._on_hangup)
        self._groups = [
            bind_group(
                (listen.host, listen.port), ipv6=listen.ipv6, steering=STEERING, workers=len(self._workers)
            )
            for listen in self._config.listen
            if has_ipv6() or not listen.ipv6
        ]
        if (changes := self._reload.router.fileno()) is not None:
            self._selector.register(changes, selectors.EVENT_READ, self._on_machine)
        gc.collect()
        gc.freeze()  # what the parent has, the workers share with it as long as nobody touches it
        while not self._stopping or any(worker.runs for worker in self._workers):
            self._poll(time.monotonic())
            for key, _ in self._selector.select(self._timeout()):
                key.data()
        if self._fault:
            raise SystemFault(self._fault)
        log.info("server: stopped")
        return self._exit_code

    def close(self) -> None:
        """Give everything back; a worker that still runs is killed."""
        for worker in self._workers:
            if worker.runs:
                os.kill(worker.pid, signal.SIGKILL)
                self._bury(worker)
            worker.inbox.close()
        if self._control is not None:
            self._control.close()
        for group in self._groups:
            for one in group:
                one.close()
        signal.set_wakeup_fd(-1)
        self._selector.close()
        self._woken.close()
        self._wake.close()

    def _poll(self, now: float) -> None:
        """Do what is due."""
        if not self._stopping:
            for worker in self._workers:
                if not worker.runs and now >= worker.due:
                    self._spawn(worker)
            self._machine_due = self._reload.router.poll(now)
            return
        running = [worker for worker in self._workers if worker.runs]
        if not self._stop_by:
            self._stop_by = now + STOP_S
            for worker in running:
                os.kill(worker.pid, signal.SIGTERM)
        elif now >= self._stop_by:
            self._stop_by = NEVER
            for worker in running:
                log.error("worker %d (process %d) does not end: killed", worker.number, worker.pid)
                os.kill(worker.pid, signal.SIGKILL)

    def _timeout(self) -> float | None:
        if self._stopping:
            due = self._stop_by
        else:
            due = min(self._machine_due, *(worker.due for worker in self._workers if not worker.runs), NEVER)
        return None if due == NEVER else max(due - time.monotonic(), 0.0)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._stopping = True

    def _on_hangup(self, number: int, frame: FrameType | None) -> None:
        self._hung_up = True

    def _on_wake(self) -> None:
        self._woken.recv(4096)
        if self._hung_up:
            self._hung_up = False
            tell("SIGHUP", self._reload())

    def _on_machine(self) -> None:
        if self._reload.router.touched():
            self._reload.router.look()

    def _deliver(self, hooks: Hooks) -> None:
        for worker in self._workers:
            if worker.channel is not None:
                worker.channel.send({"hooks": msgspec.to_builtins(hooks)})

    # -- workers --------------------------------------------------------------------------------
    def _spawn(self, worker: _Worker) -> None:
        if worker.restarts >= 0:
            log.error("%s; started anew", worker.why)
        worker.restarts += 1
        worker.fault = ""
        worker.channel = channel = ParentEnd()
        parent = os.getpid()
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # the child is not ready for them
        worker.pid = os.fork()
        if worker.pid == 0:
            self._become(worker, channel, parent)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        channel.worker_end.close()
        self._selector.register(channel, selectors.EVENT_READ, lambda: self._on_worker(worker))

    def _become(self, worker: _Worker, channel: ParentEnd, parent: int) -> NoReturn:
        """In the child: never back into the parent's frames."""
        code = 1
        try:
            process.die_with(parent)
            process.set_name(f"bondvpn-{worker.number}")
            signal.set_wakeup_fd(-1)
            for number in SIGNALS:
                signal.signal(number, signal.SIG_DFL)
            signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the parent's to answer
            self._close_others(worker)
            sockets = [group[worker.number] for group in self._groups]
            others = {
                client.public_key: other.inbox
                for other in self._workers
                if other is not worker
                for client in other.clients
            }
            share = Share(
                number=worker.number,
                workers=len(self._workers),
                clients=worker.clients,
                sockets=sockets,
                handover=Handover(sockets, worker.inbox, others),
                parent=channel.worker_end,
            )
            os.dup(channel.worker_end.fileno())  # never closed: the end of the channel is that of the process
            code = self._work(share)
        except SystemFault as fault:
            report_fault(channel.worker_end, str(fault))
        except BaseException:
            log.critical("worker %d: internal error", worker.number, exc_info=True)
        finally:
            logging.shutdown()
            os._exit(code)

    def _close_others(self, worker: _Worker) -> None:
        """What is the parent's or another worker's."""
        self._selector.close()
        self._woken.close()
        self._wake.close()
        self._reload.router.close()
        if self._control is not None:
            self._control.forget()
        for other in self._workers:
            if other.channel is not None:
                other.channel.close()
            (other.inbox.inlet if other is worker else other.inbox.outlet).close()
        for group in self._groups:
            for number, one in enumerate(group):
                if number != worker.number:
                    one.close()

    def _on_worker(self, worker: _Worker) -> None:
        """It has something to say, or is gone."""
        if worker.channel is None:
            return
        messages = worker.channel.receive()
        if messages is None:
            self._gone(worker)
            return
        for message in messages:
            if message.get("ready"):
                self._ready(worker)
            elif "fault" in message:
                worker.fault = message["fault"]

    def _ready(self, worker: _Worker) -> None:
        worker.ready = True
        if self._control is None and all(one.ready for one in self._workers):
            self._control = PolledControlSocket(SERVER_SOCKET, self._status, self._reload)
            self._selector.register(self._control, selectors.EVENT_READ, self._control.serve)
            log.info(
                "server: started, %d clients in %d workers", len(self._config.clients), len(self._workers)
            )

    def _gone(self, worker: _Worker) -> None:
        code = self._bury(worker)
        ended = f"was ended by signal {-code}" if code < 0 else f"ended with status {code}"
        worker.why = f"worker {worker.number} (process {worker.pid}): {worker.fault or ended}"
        worker.due = time.monotonic() + (RESTART_S if worker.ready else RETRY_S)
        worker.ready = False
        if self._stopping:
            self._exit_code = self._exit_code or int(code != 0)
        elif self._control is None:
            self._fault = self._fault or worker.fault or worker.why
            self._stopping = True

    def _bury(self, worker: _Worker) -> int:
        """Its exit status, negative if a signal ended it."""
        if worker.channel is not None:
            self._selector.unregister(worker.channel)
            worker.channel.close()
            worker.channel = None
        return os.waitstatus_to_exitcode(os.waitpid(worker.pid, 0)[1])

    # -- status ---------------------------------------------------------------------------------
    def _status(self, now: float) -> dict[str, Any]:
        """All workers' together. One that does not answer in time shows as tunnels without a session."""
        self._asked += 1
        waiting = {worker.number: worker for worker in self._workers if worker.ready}
        answers: dict[int, dict[str, Any]] = {}
        with selectors.DefaultSelector() as selector:
            for worker in waiting.values():
                if worker.channel is not None:
                    worker.channel.send({"id": self._asked})
                    selector.register(worker.channel, selectors.EVENT_READ, worker)
            give_up_at = now + STATUS_S
            while waiting and (left := give_up_at - time.monotonic()) > 0:
                for key, _ in selector.select(left):
                    worker = key.data
                    messages = key.fileobj.receive()  # type: ignore[union-attr]
                    answer = next((one for one in messages or () if one.get("id") == self._asked), None)
                    if answer is not None:
                        answers[worker.number] = answer
                    if answer is not None or messages is None:  # gone: the main loop will see to it
                        selector.unregister(key.fileobj)
                        waiting.pop(worker.number, None)
        return status.merge(self._config.clients, len(self._workers), answers) | {
            "machine": self._reload.router.status(),
            "workers": [
                {
                    "number": worker.number,
                    "pid": worker.pid if worker.runs else None,
                    "answers": worker.number in answers,
                    "clients": len(worker.clients),
                    "restarts": worker.restarts,
                }
                for worker in self._workers
            ],
        }
