"""The settings of the directory: an LDAP server or Active Directory that knows who people are."""

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, field_validator, model_validator

from .fields import FilePath, Seconds, Section, check_host

_URL = re.compile(r"ldaps?://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::(\d{1,5}))?")
_GRANT = re.compile(r"(viewer|operator|admin)(?::(.+))?")
_BRACES = re.compile(r"\{[^{}]*\}|[{}]")
_ATTRIBUTE = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,63}")


def parse_grant(text: str) -> tuple[str, tuple[str, ...]]:
    """What a group gives: a role, and the stages that an operator is limited to (none: all).

    Args:
        text: "viewer", "operator", "admin", or "operator:test,dev".

    Raises:
        ValueError: It is not written so.
    """
    match = _GRANT.fullmatch(text.replace(" ", ""))
    stages = tuple(match[2].split(",")) if match and match[2] else ()
    if match is None or "" in stages or (stages and match[1] != "operator"):
        raise ValueError(
            f'"{text}" is not viewer, operator or admin, or operator:test,dev to limit its stages'
        )
    return match[1], stages


def parse_groups(value: Any) -> Any:
    """Groups from an environment variable: `group=role;group=role`."""
    if not isinstance(value, str):
        return value
    parts = [part.strip().rpartition("=") for part in value.split(";") if part.strip()]
    return {group.strip(): grant for group, _, grant in parts}


class Directory(Section):
    """Accounts of an LDAP server or Active Directory."""

    servers: tuple[str, ...] = Field(
        (),
        description="LDAP servers with the same accounts; the first that answers is asked. ldaps://dc1.example.com, or "
        "ldap://dc1.example.com, which always uses StartTLS. Empty: only accounts of this node.",
    )
    ca_file: FilePath = Field(
        "", description="PEM file of the authorities that their certificates come from. Empty: the system's."
    )
    bind_dn: str = Field("", description="Who searches the directory. Empty: anybody (anonymous).")
    bind_password: str = Field("", max_length=1024, description="Its password. Needs bind_dn.")
    base_dn: str = Field("", description="Where people and groups are, such as dc=example,dc=com.")
    user_filter: str = Field(
        "(&(objectClass=person)(uid={username}))",
        description="Finds one person; {username} is what was typed. "
        "Active Directory: (&(objectClass=user)(sAMAccountName={username})).",
    )
    name_attribute: str = Field(
        "uid",
        description="The attribute that names a person's account here. Active Directory: sAMAccountName.",
    )
    group_base_dn: str = Field("", description="Where groups are. Empty: base_dn.")
    group_filter: str = Field(
        "(|(member={dn})(uniqueMember={dn}))",
        description="Finds the groups of {dn}, or of {username}. "
        "Active Directory: (member:1.2.840.113556.1.4.1941:={dn}), with group_depth 0.",
    )
    group_depth: int = Field(5, ge=0, le=20, description="How many levels of groups in groups are followed.")
    groups: Annotated[dict[str, str], BeforeValidator(parse_groups)] = Field(
        default_factory=dict,
        description="What the members of a group may do: its DN (or its cn) and viewer, operator, admin, or "
        "operator:test,dev for an operator of some stages. As a variable: cn1=admin;cn2=viewer.",
    )
    connect_timeout_s: int = Field(5, ge=1, le=60, description="Seconds to wait for a connection.")
    receive_timeout_s: int = Field(5, ge=1, le=60, description="Seconds to wait for an answer.")
    recheck_s: Seconds = Field(
        3600,
        ge=10,
        le=86_400,
        description="Seconds after which groups of people who signed in earlier are read again.",
    )

    @field_validator("servers")
    @classmethod
    def _servers(cls, servers: tuple[str, ...]) -> tuple[str, ...]:
        for url in servers:
            match = _URL.fullmatch(url)
            if match is None or not 0 < int(match[2] or 389) < 65_536:
                raise ValueError(f"{url} is not a URL such as ldaps://dc1.example.com:636")
            check_host(match[1])
        if len(set(servers)) != len(servers):
            raise ValueError("name each server once")
        return servers

    @field_validator("user_filter", "group_filter")
    @classmethod
    def _filter(cls, text: str) -> str:
        if not (text.startswith("(") and text.endswith(")")) or text.count("(") != text.count(")"):
            raise ValueError("it is not a filter in parentheses")
        unknown = set(_BRACES.findall(text)) - {"{username}", "{dn}"}
        if unknown:
            raise ValueError(f"there is no {sorted(unknown)[0]}; write another brace as \\7b or \\7d")
        return text

    @field_validator("name_attribute")
    @classmethod
    def _attribute(cls, text: str) -> str:
        if not _ATTRIBUTE.fullmatch(text):
            raise ValueError("it is not the name of an attribute")
        return text

    @field_validator("groups")
    @classmethod
    def _grants(cls, groups: dict[str, str]) -> dict[str, str]:
        for group, grant in groups.items():
            if not group:
                raise ValueError("a group has a name")
            parse_grant(grant)
        return groups

    @model_validator(mode="after")
    def _complete(self) -> "Directory":
        self.check_pair("bind_dn", "bind_password")
        if not self.servers:
            return self
        if not self.base_dn:
            raise ValueError(
                "base_dn: with servers it is needed: where people are, such as dc=example,dc=com"
            )
        if not self.groups:
            raise ValueError(
                "groups: with servers it is needed: nobody of the directory could sign in without"
            )
        if "{username}" not in self.user_filter or "{dn}" in self.user_filter:
            raise ValueError("user_filter: it has {username}, and no {dn}")
        if "{dn}" not in self.group_filter and "{username}" not in self.group_filter:
            raise ValueError("group_filter: it has {dn} or {username}")
        return self
