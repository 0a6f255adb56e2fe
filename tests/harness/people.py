"""A company of 200 for the directory: people, groups, groups in groups, a cycle."""

import itertools
from collections.abc import Iterable

from .slapd import BASE, GROUPS, PEOPLE

COUNT = 200
ADMINS = f"cn=ods-admins,{GROUPS}"
HELPDESK = f"cn=helpdesk,{GROUPS}"
PACKAGERS = f"cn=packagers,{GROUPS}"
READERS = f"cn=readers,{GROUPS}"
DEEP = f"cn=deep,{GROUPS}"
GRANTS = {
    ADMINS: "admin",
    HELPDESK: "operator:test",
    PACKAGERS: "operator",
    "readers": "viewer",
    DEEP: "viewer",
}

ANNA, BEN, CARA, DORA, EVE = "anna", "ben", "cara", "dora", "eve"  # admin, of test, viewer, nested, nothing
COMMA = r"cn=Smith\, John (IT),ou=people,dc=example,dc=com"  # a DN that needs escaping everywhere


def password_of(name: str) -> str:
    """Everybody's own."""
    return f"the password of {name}"


def person(uid: str, *, dn: str = "", cn: str = "") -> str:
    """LDIF of one."""
    return (
        f"dn: {dn or f'uid={uid},{PEOPLE}'}\nobjectClass: inetOrgPerson\nuid: {uid}\ncn: {cn or uid}\nsn: {uid}\n"
        f"mail: {uid}@example.com\nuserPassword: {password_of(uid)}\n"
    )


def group(dn: str, members: Iterable[str]) -> str:
    """LDIF of one."""
    lines = "".join(f"member: {member}\n" for member in members)
    cn = dn.partition(",")[0].partition("=")[2]
    return f"dn: {dn}\nobjectClass: groupOfNames\ncn: {cn}\n{lines}"


def uid(name: str) -> str:
    """Somebody's DN."""
    return f"uid={name},{PEOPLE}"


def company() -> str:
    """LDIF of everybody."""
    many = [f"user{number:03}" for number in range(COUNT - 8)]
    entries = [person(name) for name in (ANNA, BEN, CARA, DORA, EVE, "admin", *many)]
    entries += [
        person("jsmith", dn=COMMA, cn="Smith, John (IT)"),
        person("zoë", dn=f"uid=zoe,{PEOPLE}").replace("uid: zoë", "uid: zoë\nuid: zoe"),
    ]
    walk = [f"cn=level{number},{GROUPS}" for number in range(1, 5)]
    entries += [
        group(ADMINS, [uid(ANNA), uid("admin")]),
        group(HELPDESK, [uid(BEN), COMMA, f"cn=subdesk,{GROUPS}"]),
        group(f"cn=subdesk,{GROUPS}", [uid("user001"), f"cn=helpdesk,{GROUPS}"]),  # contain each other
        group(PACKAGERS, [uid("user002")]),
        group(READERS, [uid(CARA), *(uid(name) for name in many)]),
        group(walk[0], [uid(DORA)]),
        *(group(outer, [inner]) for inner, outer in itertools.pairwise(walk)),
        group(DEEP, [walk[-1]]),
        f"dn: ou=elsewhere,{BASE}\nobjectClass: referral\nobjectClass: extensibleObject\nou: elsewhere\n"
        f"ref: ldap://127.0.0.1:1/ou=elsewhere,{BASE}\n",
    ]
    return "\n".join(entries)
