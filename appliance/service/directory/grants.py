"""What groups give: a role, and the stages of an operator."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from appliance.service.principal import Role
from config.directory import parse_grant

from .naming import DnKey, dn_key, login_key


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A group of the directory."""

    dn: str
    names: tuple[str, ...] = ()  #: the values of its cn


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What somebody may do."""

    role: Role
    stages: tuple[str, ...] = ()  #: the stages that an operator is limited to; none: all


class Grants:
    """The groups of the settings."""

    def __init__(self, groups: Mapping[str, str]) -> None:
        """Read them.

        Args:
            groups: By DN or cn: "viewer", "operator", "admin" or "operator:test,dev".
        """
        self._by_dn: dict[DnKey, Grant] = {}
        self._by_name: dict[str, Grant] = {}
        for group, text in groups.items():
            word, stages = parse_grant(text)
            grant = Grant(role=Role[word.upper()], stages=stages)
            key = dn_key(group) if "=" in group else None
            if key:
                self._by_dn[key] = grant
            else:
                self._by_name[login_key(group)] = grant

    def of(self, group: Group) -> Grant | None:
        """What a group gives, if the settings name it."""
        key = dn_key(group.dn)
        if key in self._by_dn:
            return self._by_dn[key]
        return next(
            (self._by_name[login_key(name)] for name in group.names if login_key(name) in self._by_name), None
        )

    def of_all(self, groups: Iterable[Group]) -> Grant | None:
        """What several groups give together: the highest role, and all stages that any of them gives it for."""
        found = [grant for grant in map(self.of, groups) if grant is not None]
        if not found:
            return None
        role = max(grant.role for grant in found)
        limits = [grant.stages for grant in found if grant.role is role]
        stages = () if not all(limits) else tuple(dict.fromkeys(stage for limit in limits for stage in limit))
        return Grant(role=role, stages=stages)
