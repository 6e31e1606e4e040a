"""Lines shaped by the kernel's netem, as a modem and its exchange would."""

from bondvpn.lab.topology import Lab

WAIT_S = 30.0  # for what takes a few seconds: this machine is slow, and one core
QUEUE_PACKETS = 50  # of the modem: 150 ms of full frames at 4 Mbit/s


def shape(lab: Lab, where: str, interface: str, mbit: float, delay_ms: float) -> None:
    """From now on what leaves there by `interface` does so at `mbit` Mbit/s, `delay_ms` later."""
    limits = f"rate {mbit:g}mbit delay {delay_ms:g}ms limit {QUEUE_PACKETS}"
    words = ["tc", "qdisc", "replace", "dev", interface, "root", "netem", *limits.split()]
    lab.run(where, words, check=True)


def silence(lab: Lab, where: str, interface: str) -> None:
    """From now on nothing leaves there by `interface`, and nobody is told."""
    words = ["tc", "qdisc", "replace", "dev", interface, "root", "netem", "loss", "100%"]
    lab.run(where, words, check=True)
