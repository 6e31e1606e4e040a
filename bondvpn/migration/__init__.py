"""From the old recipe (an OpenVPN per line, the kernel's eql on top) to client.toml and server.toml.

    files -> sources -> openvpn, interfaces, shell -> facts -> setup -> configuration
    text     places     what each file says           joined    one line, one uplink   TOML, keys, report

Nothing is executed: scripts are read, and followed as far as their own text tells.
"""
