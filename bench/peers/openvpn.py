"""OpenVPN, one tunnel over one line."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from bench.peers.peer import Peer, first_line, program
from bondvpn.lab.topology import Lab

# Per kind of device: third octet of the addresses 172.21.x.1 (server) and .2 (client), and the port.
NETWORKS = {"tap": (2, 1194), "tun": (3, 1195)}
NETMASK = "255.255.255.252"


class OpenVpn(Peer):
    """UDP, AES-256-GCM, TLS with self-signed certificates pinned by fingerprint; everything else (MSS fix,
    socket buffers, queue length) as it comes."""

    package = "openvpn"

    def __init__(self, lab: Lab, line: str, kind: str = "tap") -> None:
        """`kind` of device: "tap" or "tun"."""
        super().__init__(lab)
        self.name = f"OpenVPN {kind}"
        self._tunnel = Tunnel(self, line, f"ov{kind}", kind, *NETWORKS[kind])

    @classmethod
    def version(cls) -> str | None:
        found = program("openvpn")
        return " ".join(first_line(found, "--version").split()[:2]) if found else None

    @property
    def address(self) -> str:
        return self._tunnel.address

    @property
    def command(self) -> str:
        return f"openvpn {' '.join(self._tunnel.options)}"

    def start(self) -> None:
        self._tunnel.start()


class Tunnel:
    """The two processes of one OpenVPN tunnel, run by `peer`, which may have several."""

    def __init__(self, peer: Peer, line: str, device: str, kind: str, octet: int, port: int) -> None:
        self._peer = peer
        self._line = line
        self.device = device
        self._kind = kind
        self._port = str(port)
        self.address = f"172.21.{octet}.1"
        self.client_address = f"172.21.{octet}.2"

    @property
    def options(self) -> list[str]:
        """What both ends are told, keys and addresses aside."""
        return ["--dev-type", self._kind, "--proto", "udp", "--data-ciphers", "AES-256-GCM",
                "--tun-mtu", "1500", "--verb", "1"]  # fmt: skip

    def start(self, suffix: str = "") -> None:
        """Start the processes "client" and "server", with `suffix` behind their names."""
        prints = {end: self._certify(end) for end in ("client", "server")}
        server = ["--tls-server", "--dh", "none", "--lport", self._port]
        client = ["--tls-client", "--nobind", "--remote", self._peer.lab.gateway(self._line), self._port]
        self._spawn("server", suffix, prints["client"], server, self.address, self.client_address)
        self._spawn("client", suffix, prints["server"], client, self.client_address, self.address)

    def _spawn(self, end: str, suffix: str, fingerprint: str, words: list[str], own: str, other: str) -> None:
        base = self._base(end)
        keys = ["--cert", f"{base}.crt", "--key", f"{base}.key", "--peer-fingerprint", fingerprint]
        network = ["--ifconfig", own, NETMASK if self._kind == "tap" else other]
        argv = ["openvpn", "--dev", self.device, *self.options, *keys, *words, *network]
        argv[0] = program("openvpn") or argv[0]
        self._peer.spawn(end, end + suffix, argv)

    def _base(self, end: str) -> Path:
        return self._peer.directory / f"{self.device}-{end}"

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
        private = Path(f"{self._base(end)}.key")
        private.touch(mode=0o600)
        private.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        Path(f"{self._base(end)}.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        return certificate.fingerprint(hashes.SHA256()).hex(":").upper()
