"""OpenVPN's options that bondvpn needs no counterpart of, and why (openvpn(8))."""

# Nothing to carry over, and nobody misses it.
SILENT = frozenset(
    """
    client tls-client pull nobind float daemon verb mute mute-replay-warnings status log log-append syslog
    writepid user group chroot cd nice mlock persist-tun persist-key persist-local-ip persist-remote-ip
    resolv-retry connect-retry connect-retry-max connect-timeout server-poll-timeout explicit-exit-notify
    remote-random auth-nocache script-security tmp-dir setenv setenv-safe ping-timer-rem fast-io
    tls-exit tls-timeout hand-window tran-window rcvbuf sndbuf txqueuelen dev-type topology route-delay
    disable-occ machine-readable-output suppress-timestamps up-restart up-delay route-method
    """.split()  # noqa: SIM905 - fifty short words
)

# What bondvpn does by itself, or in another way; the reader wants to know which.
BY_ITSELF = {
    "secret": "keys of its own: the ones written beside the configuration replace it",
    "ca": "keys of its own, no certificates",
    "cert": "keys of its own, no certificates",
    "key": "keys of its own: the ones written beside the configuration replace it",
    "pkcs12": "keys of its own, no certificates",
    "tls-auth": "the preshared key takes its place",
    "tls-crypt": "the preshared key takes its place",
    "tls-crypt-v2": "the preshared key takes its place",
    "key-direction": "not needed",
    "remote-cert-tls": "the server is known by its public key",
    "ns-cert-type": "the server is known by its public key",
    "tls-remote": "the server is known by its public key",
    "verify-x509-name": "the server is known by its public key",
    "tls-version-min": "not needed",
    "tls-cipher": "not needed",
    "cipher": "AES-256-GCM or ChaCha20-Poly1305, negotiated",
    "data-ciphers": "AES-256-GCM or ChaCha20-Poly1305, negotiated",
    "data-ciphers-fallback": "AES-256-GCM or ChaCha20-Poly1305, negotiated",
    "ncp-ciphers": "AES-256-GCM or ChaCha20-Poly1305, negotiated",
    "keysize": "AES-256-GCM or ChaCha20-Poly1305, negotiated",
    "auth": "the cipher authenticates",
    "replay-window": "one for each line, of its own size",
    "no-replay": "there is no such thing",
    "reneg-sec": "new keys every 120 s",
    "reneg-bytes": "new keys every 120 s",
    "keepalive": "every line is probed, and its silence seen within a fraction of a second",
    "ping": "every line is probed, and its silence seen within a fraction of a second",
    "ping-restart": "every line is probed, and its silence seen within a fraction of a second",
    "ping-exit": "every line is probed, and its silence seen within a fraction of a second",
    "inactive": "a tunnel stays up",
    "tun-mtu": "the tunnel's MTU is 1500 whatever the lines' MTU is",
    "tun-mtu-extra": "the tunnel's MTU is 1500 whatever the lines' MTU is",
    "link-mtu": "each line's path MTU is probed",
    "fragment": "each line's path MTU is probed, and frames are cut to fit",
    "mssfix": "not needed: the tunnel's MTU is 1500",
    "mtu-disc": "each line's path MTU is probed",
    "mtu-test": "each line's path MTU is probed",
    "comp-lzo": "nothing is compressed (and compression beside encryption tells secrets)",
    "compress": "nothing is compressed (and compression beside encryption tells secrets)",
    "allow-compression": "nothing is compressed (and compression beside encryption tells secrets)",
}
