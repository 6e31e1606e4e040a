"""`bondvpn reload`: what each running process applied of its file, and what it could not."""

from collections.abc import Iterator

from bondvpn.errors import BondvpnError, ConfigError, SystemFault
from bondvpn.ui import control

TIMEOUT_S = 15.0  # the process may ask name servers


def reload(interface: str | None = None) -> Iterator[str]:
    """One line for each thing that came of it.

    Raises SystemFault when none runs or something could not be done, ConfigError when a file is wrong; by
    then the other processes have been asked too.
    """
    errors: list[str] = []
    faults: list[str] = []
    for name, reply in control.ask_all("reload", interface, TIMEOUT_S).items():
        if "errors" in reply:
            (errors if reply.get("exit_code") == ConfigError.exit_code else faults).extend(reply["errors"])
            yield f"{name}: nothing changed"
            continue
        for line in reply["applied"]:
            yield f"{name}: applied {line}"
        for line in reply["restart"]:
            yield f"{name}: needs a restart: {line}"
        if not reply["applied"] and not reply["restart"]:
            yield f"{name}: the file is as it was"
        faults += reply["faults"]
    fault: BondvpnError | None = ConfigError(errors) if errors else None
    if fault is None and faults:
        fault = SystemFault("\n".join(faults))
    if fault is not None:
        raise fault
