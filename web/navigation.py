"""What the navigation lists. An area with pages of its own adds its entry here."""

from dataclasses import dataclass

from appliance.service.accounts import Role


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One page in the navigation."""

    address: str
    name: str
    role: Role = Role.VIEWER  #: the least that may see it


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """Entries that belong together."""

    name: str
    entries: tuple[Entry, ...]


_SECTIONS = (
    Section(
        name="Packages",
        entries=(
            Entry(address="/ui/", name="Overview"),
            Entry(address="/ui/packages", name="Packages"),
            Entry(address="/ui/upload", name="Upload", role=Role.OPERATOR),
        ),
    ),
    Section(
        name="Network",
        entries=(
            Entry(address="/ui/network", name="Nodes"),
            Entry(address="/ui/replication", name="Replication"),
            Entry(address="/ui/transfers", name="Transfers"),
            Entry(address="/ui/jobs", name="Jobs"),
        ),
    ),
    Section(
        name="Connections",
        entries=(
            Entry(address="/ui/mdm", name="MDM servers"),
            Entry(address="/ui/notifications", name="Notifications", role=Role.OPERATOR),
            Entry(address="/ui/deliveries", name="Deliveries", role=Role.OPERATOR),
        ),
    ),
    Section(
        name="Administration",
        entries=(
            Entry(address="/ui/users", name="Users", role=Role.ADMIN),
            Entry(address="/ui/directory", name="Directory", role=Role.ADMIN),
            Entry(address="/ui/tokens", name="API tokens"),
            Entry(address="/ui/sessions", name="Sessions"),
            Entry(address="/ui/audit", name="Audit log"),
            Entry(address="/ui/settings", name="Settings", role=Role.ADMIN),
            Entry(address="/ui/about", name="About"),
        ),
    ),
)


def sections(role: Role) -> list[Section]:
    """What somebody of this role finds in the navigation."""
    shown = [
        Section(name=section.name, entries=tuple(entry for entry in section.entries if role >= entry.role))
        for section in _SECTIONS
    ]
    return [section for section in shown if section.entries]
