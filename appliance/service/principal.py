"""Who is asking, and what they may do."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from appliance.domain.errors import InvalidInput

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")


def is_account_name(text: str) -> bool:
    """Whether an account may be called so: 1 to 64 letters, digits and . _ @ -, none of these four first."""
    return _NAME.fullmatch(text) is not None


class Role(IntEnum):
    """What an account may do; each includes those below it."""

    VIEWER = 1  #: look
    OPERATOR = 2  #: put packages in, change and withdraw them
    ADMIN = 3  #: peers, accounts, everything

    @property
    def word(self) -> str:
        """The role in lower case."""
        return self.name.lower()


def parse_role(word: str) -> Role:
    """A role by its word.

    Raises:
        InvalidInput: There is none.
    """
    try:
        return Role[word.upper()]
    except KeyError:
        raise InvalidInput(f'There is no role "{word}"; roles are viewer, operator and admin.') from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """Who is asking."""

    name: str
    role: Role
    via: str  #: "password", or "token <id>"
    stages: tuple[str, ...] = ()  #: the stages that an operator is limited to; none: all
    scopes: tuple[str, ...] = ()  #: what a token is good for, see `scopes`; none: all


def principal_of(account: Mapping[str, Any], via: str) -> Principal:
    """Who an account is, by the document that keeps it."""
    role = Role[account["role"].upper()]
    return Principal(name=account["_id"], role=role, via=via, stages=tuple(account.get("stages", ())))


def limited(role: Role, first: Sequence[str], second: Sequence[str]) -> tuple[Role, tuple[str, ...]]:
    """The role and the stages that two limits leave together; an operator of no stage at all only looks."""
    if role is not Role.OPERATOR or not first or not second:
        return role, tuple(first or second) if role is Role.OPERATOR else ()
    both = tuple(stage for stage in first if stage in second)
    return (role, both) if both else (Role.VIEWER, ())
