"""One person, and their groups with the groups that these are in."""

from dataclasses import dataclass

from appliance.service.principal import is_account_name
from config.directory import Directory as Options

from .conversation import Conversation, Entry, TooMany
from .grants import Grant, Group
from .naming import filled, is_login, login_key

MAX_GROUPS = 1000  #: of one person
_AT_ONCE = 25  #: groups whose own groups one search asks for


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """Somebody whom the directory knows."""

    name: str  #: of their account here
    dn: str
    grant: Grant | None  #: None if no group of theirs gives a role


def find_person(conversation: Conversation, options: Options, login: str) -> Entry | None:
    """The entry of who is called so, None if there is none.

    Raises:
        TooMany: There are several.
        ServerFailed: The server did not answer as it should.
    """
    if not is_login(login):
        return None
    filter = filled(options.user_filter, {"username": login})
    found = conversation.search(options.base_dn, filter, [options.name_attribute], limit=1)
    return found[0] if found else None


def account_name(entry: Entry, options: Options) -> str:
    """What an entry's account is called here, "" if nobody can be called so."""
    name = login_key(entry.first(options.name_attribute))
    return name if is_account_name(name) else ""


def groups_of(conversation: Conversation, options: Options, entry: Entry, login: str) -> list[Group]:
    """Every group that a person is in, directly or through other groups, each once, the nearest first.

    Groups that contain each other end the walk, not the program.

    Raises:
        ServerFailed: The server did not answer as it should.
        TooMany: There are more than `MAX_GROUPS`.
    """
    found: dict[str, Group] = {}
    nearest = [entry.dn]
    for _ in range(options.group_depth + 1):
        level: list[str] = []
        for start in range(0, len(nearest), _AT_ONCE):
            for group in _holding(conversation, options, nearest[start : start + _AT_ONCE], login):
                if group.dn not in found:
                    found[group.dn] = group
                    level.append(group.dn)
        if len(found) > MAX_GROUPS:
            raise TooMany(f"{entry.dn} is in more than {MAX_GROUPS} groups; narrow directory.group_filter")
        nearest = level
        if not nearest:
            break
    return list(found.values())


def _holding(conversation: Conversation, options: Options, members: list[str], login: str) -> list[Group]:
    parts = [filled(options.group_filter, {"dn": dn, "username": login}) for dn in members]
    filter = parts[0] if len(parts) == 1 else f"(|{''.join(parts)})"
    base = options.group_base_dn or options.base_dn
    entries = conversation.search(base, filter, ["cn"], limit=MAX_GROUPS)
    return [Group(dn=entry.dn, names=tuple(entry.attributes.get("cn", ()))) for entry in entries]
