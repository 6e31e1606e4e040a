"""bondvpn: a userspace multilink VPN bonder for Linux."""

__version__ = "0.1.0"
