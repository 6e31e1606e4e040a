"""Other people's tunnels in a lab, to compare with: each a context manager with an address and processes."""

import contextlib
import shutil
import signal
import subprocess
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from bench import meter
from bondvpn.errors import SystemFault
from bondvpn.lab.measure import ping
from bondvpn.lab.topology import Lab

CLIENT_ADDRESS = "172.21.2.2"
NETMASK = "255.255.255.252"
PATH = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin"  # sbin: not in every root's PATH
ECHO_WAIT_S = 15.0
STOP_WAIT_S = 3.0


class OpenVpn:
    """OpenVPN, one tunnel over one line: tap, UDP, AES-256-GCM, TLS with self-signed certificates pinned by
    fingerprint; everything else (MSS fix, socket buffers, queue length) as it comes.

    Entering waits for an echo; raises SystemFault with both logs when none comes.
    """

    address = "172.21.2.1"
    """The server's, inside the tunnel."""

    def __init__(self, lab: Lab, line: str) -> None:
        self._lab = lab
        self._line = line
        self._directory = tempfile.TemporaryDirectory(prefix="bondvpn-bench-openvpn-")
        self._ends: dict[str, subprocess.Popen[Any]] = {}

    @staticmethod
    def version() -> str | None:
        """What `openvpn --version` says first; None when it is not installed."""
        if (program := shutil.which("openvpn", path=PATH)) is None:
            return None
        shown = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout
        return " ".join(shown.split()[:2])

    @property
    def options(self) -> list[str]:
        """What both ends are told, keys and addresses aside."""
        return ["--dev-type", "tap", "--proto", "udp", "--data-ciphers", "AES-256-GCM",
                "--tun-mtu", "1500", "--verb", "1"]  # fmt: skip

    @property
    def processes(self) -> dict[str, int]:
        """ "client" and "server" to pid."""
        return {end: process.pid for end, process in self._ends.items()}

    def __enter__(self) -> Self:
        try:
            prints = {end: self._certify(end) for end in ("client", "server")}
            server = ["--tls-server", "--dh", "none", "--lport", "1194"]
            client = ["--tls-client", "--nobind", "--remote", self._lab.gateway(self._line), "1194"]
            self._start("srv", "server", prints["client"], [*server, "--ifconfig", self.address, NETMASK])
            self._start("gw", "client", prints["server"], [*client, "--ifconfig", CLIENT_ADDRESS, NETMASK])
            self._await_echo()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._ends.values():
            process.send_signal(signal.SIGTERM)
        for process in self._ends.values():
            try:
                process.wait(STOP_WAIT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._directory.cleanup()

    def _start(self, where: str, end: str, fingerprint: str, words: list[str]) -> None:
        base = Path(self._directory.name, end)
        own = ["--cert", f"{base}.crt", "--key", f"{base}.key", "--peer-fingerprint", fingerprint]
        with Path(f"{base}.log").open("wb") as log:
            self._ends[end] = self._lab.popen(
                where,
                [
                    shutil.which("openvpn", path=PATH) or "openvpn",
                    "--dev",
                    "ovpn0",
                    *self.options,
                    *own,
                    *words,
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def _await_echo(self) -> None:
        with contextlib.suppress(SystemFault):
            return meter.wait(
                lambda: bool(ping(self._lab, self.address, count=1, timeout_s=0.3)), "an echo", ECHO_WAIT_S
            )
        logs = [path.read_text(errors="replace") for path in Path(self._directory.name).glob("*.log")]
        raise SystemFault("\n".join([f"nothing comes through OpenVPN after {ECHO_WAIT_S:.0f} s", *logs]))

    def _certify(self, end: str) -> str:
        """Write a new key and its self-signed certificate; the certificate's SHA-256 fingerprint."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, end)])
        now = datetime.now(UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .sign(key, hashes.SHA256())
        )
        base = Path(self._directory.name, end)
        private = Path(f"{base}.key")
        private.touch(mode=0o600)
        private.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        Path(f"{base}.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        return certificate.fingerprint(hashes.SHA256()).hex(":").upper()
