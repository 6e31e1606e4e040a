"""What was looked at and what was found."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """One check of one thing."""

    check: str
    """What was looked at: "rp_filter", "reach", ..."""
    subject: str
    """Of what: an interface, a file, an uplink."""
    found: str
    mend: str = ""
    """The command, or what else mends it; empty: all is well."""

    @property
    def well(self) -> bool:
        return not self.mend
