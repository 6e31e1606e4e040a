"""Local faults, each with a message a person can act on.

Remote faults (garbage, replays, strangers) never raise: they drop and count, see `stats.Drop`.
"""


class BondvpnError(Exception):
    """Base of everything the command line reports as one line instead of a traceback."""

    exit_code = 1


class ConfigError(BondvpnError):
    """Bad usage or configuration: `errors` holds every finding, one line each."""

    exit_code = 2

    def __init__(self, errors: list[str]) -> None:
        super().__init__("\n".join(errors))
        self.errors = errors


class SystemFault(BondvpnError):
    """The kernel refused something we need (device, route, socket)."""
