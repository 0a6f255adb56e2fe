"""The directory against a real OpenLDAP server."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.domain.errors import DirectoryUnavailable
from appliance.service.directory import Directory, Person
from appliance.service.directory.grants import Grant
from appliance.service.principal import Role
from config.directory import Directory as Options
from tests.conftest import skip_or_fail
from tests.harness import people
from tests.harness.people import ANNA, BEN, CARA, DORA, EVE, GRANTS, company, password_of
from tests.harness.slapd import BASE, GROUPS, PEOPLE, READER, READER_PASSWORD, Authority, Slapd, find_slapd


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def slapd(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[Slapd]:
    """Everybody's directory. It takes binds without password for nobody's, as Active Directory does."""
    if find_slapd() is None:
        skip_or_fail("there is no slapd: apt-get install slapd ldap-utils")
    server = Slapd(
        tmp_path_factory.mktemp("slapd"),
        company(),
        authority=authority,
        extra="allow bind_anon_cred bind_anon_dn",
    )
    try:
        yield server.start()
    finally:
        server.dispose()


@pytest.fixture
def options(slapd: Slapd, authority: Authority) -> dict[str, Any]:
    return {
        "servers": (slapd.ldaps,),
        "ca_file": str(authority.file),
        "bind_dn": READER,
        "bind_password": READER_PASSWORD,
        "base_dn": BASE,
        "groups": GRANTS,
        "connect_timeout_s": 2,
        "receive_timeout_s": 2,
    }


def with_directory(options: dict[str, Any], test: Callable[[Directory], Awaitable[None]]) -> None:
    async def go() -> None:
        directory = Directory(Options(**options), lambda: 1_800_000_000_000)
        try:
            await test(directory)
        finally:
            directory.close()

    asyncio.run(go())


def sign_in(options: dict[str, Any], name: str, password: str) -> Person | None:
    found: list[Person | None] = []

    async def test(directory: Directory) -> None:
        found.append(await directory.sign_in(name, password))

    with_directory(options, test)
    return found[0]


def grant_of(options: dict[str, Any], name: str) -> Grant | None:
    person = sign_in(options, name, password_of(name))
    assert person is not None, name
    return person.grant


@pytest.mark.parametrize("way", ["ldaps", "starttls"])
def test_roles(options: dict[str, Any], slapd: Slapd, way: str) -> None:
    options["servers"] = (getattr(slapd, way),)
    assert grant_of(options, ANNA) == Grant(role=Role.ADMIN)
    assert grant_of(options, BEN) == Grant(role=Role.OPERATOR, stages=("test",))
    assert grant_of(options, CARA) == Grant(role=Role.VIEWER)
    assert grant_of(options, EVE) is None


def test_the_account_name_is_the_directorys(options: dict[str, Any]) -> None:
    options["user_filter"] = "(&(objectClass=person)(|(uid={username})(mail={username})))"
    for typed in (ANNA, "ANNA", "Anna@Example.com"):
        person = sign_in(options, typed, password_of(ANNA))
        assert person is not None
        assert (person.name, person.dn) == (ANNA, people.uid(ANNA))


@pytest.mark.parametrize(
    ("name", "password"),
    [
        (ANNA, "wrong"),
        (ANNA, ""),
        (ANNA, "\u00ad"),  # RFC 4013 turns it into the empty one, which this server takes for nobody's
        (ANNA, "\0"),
        (ANNA, password_of(BEN)),
        ("nobody", "wrong"),
        ("", "wrong"),
        ("*", password_of(ANNA)),
        ("*)(uid=*", password_of(ANNA)),
        ("anna)(uid=anna", password_of(ANNA)),
        ("anna)(|(uid=*", password_of(ANNA)),
        ("an*", password_of(ANNA)),
        ("anna\0", password_of(ANNA)),
        ("anna\\2a", password_of(ANNA)),
        ("anna ", password_of(ANNA)),
        (" anna", password_of(ANNA)),
        ("an\u00adna", password_of(ANNA)),
        ("\u202eanna", password_of(ANNA)),
        ("{dn}", password_of(ANNA)),
        ("a" * 5000, "wrong"),
        (f"uid=anna,{PEOPLE}", password_of(ANNA)),
    ],
)
def test_nobody_gets_in_by(options: dict[str, Any], name: str, password: str) -> None:
    assert sign_in(options, name, password) is None


def test_a_name_that_could_be_many_is_nobodys(options: dict[str, Any]) -> None:
    options["user_filter"] = "(|(uid={username})(sn=user001))"
    assert sign_in(options, "user002", password_of("user002")) is None


def test_a_dn_with_commas_and_parentheses(options: dict[str, Any]) -> None:
    person = sign_in(options, "jsmith", password_of("jsmith"))
    assert person is not None
    assert person.grant == Grant(role=Role.OPERATOR, stages=("test",))


def test_a_name_that_no_account_can_have(options: dict[str, Any]) -> None:
    assert sign_in(options, "zoë", password_of("zoë")) is None


def test_groups_in_groups(options: dict[str, Any]) -> None:
    """dora is in level1, in level2, in level3, in level4, in deep: deep is five steps from her."""
    assert grant_of(options, DORA) == Grant(role=Role.VIEWER)
    assert grant_of({**options, "group_depth": 4}, DORA) == Grant(role=Role.VIEWER)
    assert grant_of({**options, "group_depth": 3}, DORA) is None
    assert grant_of({**options, "group_depth": 0}, DORA) is None


def test_groups_that_contain_each_other(options: dict[str, Any]) -> None:
    assert grant_of({**options, "group_depth": 20}, "user001") == Grant(role=Role.OPERATOR, stages=("test",))


def test_several_groups_add_up(options: dict[str, Any]) -> None:
    assert grant_of(options, "user002") == Grant(role=Role.OPERATOR)
    both = {**GRANTS, "readers": "operator:dev,test", people.PACKAGERS: "operator:prod"}
    assert grant_of({**options, "groups": both}, "user002") == Grant(
        role=Role.OPERATOR, stages=("prod", "dev", "test")
    )


def test_spellings_of_a_groups_dn(options: dict[str, Any]) -> None:
    options["groups"] = {"CN=ODS-Admins, OU=Groups,DC=Example,dc=com": "admin"}
    assert grant_of(options, ANNA) == Grant(role=Role.ADMIN)
    options["groups"] = {f"cn=ods-admins,ou=other,{BASE}": "admin"}
    assert grant_of(options, ANNA) is None


def test_members_by_name(options: dict[str, Any], slapd: Slapd) -> None:
    slapd.modify(
        f"dn: cn=unix,{GROUPS}\nchangetype: add\nobjectClass: posixGroup\ncn: unix\ngidNumber: 70\nmemberUid: {EVE}\n"
    )
    options |= {
        "group_filter": "(&(objectClass=posixGroup)(memberUid={username}))",
        "groups": {"unix": "viewer"},
    }
    assert grant_of(options, EVE) == Grant(role=Role.VIEWER)


def test_unknown_people_cost_the_same_steps(options: dict[str, Any], slapd: Slapd) -> None:
    """The reader binds, and then somebody: the person, or nobody with the same password."""
    before = slapd.binds()
    assert sign_in(options, "nobody", "wrong") is None
    unknown = slapd.binds()
    assert sign_in(options, ANNA, "wrong") is None
    assert unknown - before == slapd.binds() - unknown == 2


def test_everybody_can_be_found_again(options: dict[str, Any]) -> None:
    async def test(directory: Directory) -> None:
        person = await directory.find(BEN)
        assert person is not None
        assert person.grant == Grant(role=Role.OPERATOR, stages=("test",))
        assert await directory.find("nobody") is None

    with_directory(options, test)


def test_many_at_once(options: dict[str, Any]) -> None:
    async def test(directory: Directory) -> None:
        names = [f"user{number:03}" for number in range(30)]
        found = await asyncio.gather(*(directory.sign_in(name, password_of(name)) for name in names))
        assert [person.name for person in found if person] == names

    with_directory(options, test)


# Certificates


def unavailable(options: dict[str, Any]) -> str:
    """What the first server's health says after a sign-in that must fail for want of a server."""
    said: list[str] = []

    async def test(directory: Directory) -> None:
        with pytest.raises(DirectoryUnavailable):
            await directory.sign_in(ANNA, password_of(ANNA))
        said.append(directory.health()[0].error)

    with_directory(options, test)
    return said[0]


@pytest.mark.parametrize("way", ["ldaps", "starttls"])
def test_an_unknown_authority_is_refused(
    options: dict[str, Any], slapd: Slapd, tmp_path: Path, way: str
) -> None:
    before = slapd.binds()
    options |= {"servers": (getattr(slapd, way),), "ca_file": str(Authority(tmp_path, "Somebody Else").file)}
    said = unavailable(options)
    assert said.startswith("tls: its certificate is refused")
    assert slapd.binds() == before


@pytest.mark.parametrize("way", ["ldaps", "starttls"])
def test_the_systems_authorities_do_not_know_it(options: dict[str, Any], slapd: Slapd, way: str) -> None:
    options |= {"servers": (getattr(slapd, way),), "ca_file": ""}
    assert unavailable(options).startswith("tls: its certificate is refused")


@pytest.mark.parametrize("way", ["ldaps", "starttls"])
def test_a_certificate_of_another_host_is_refused(
    options: dict[str, Any], authority: Authority, tmp_path: Path, way: str
) -> None:
    other = Slapd(tmp_path, company(), authority=authority, hosts=["ldap.example.com"])
    try:
        options["servers"] = (getattr(other.start(), way),)
        said = unavailable(options)
        assert "certificate is refused: Hostname mismatch" in said
        assert other.binds() == 0
    finally:
        other.dispose()


def test_the_server_does_what_ldap3_alone_would_take(slapd: Slapd) -> None:
    """The refusals above are ours: ldap3 as it comes signs in to the same server without any check."""
    import ldap3

    server = ldap3.Server("127.0.0.1", port=slapd.tls_port, use_ssl=True)  # it leaves the socket of ::1 open
    connection = ldap3.Connection(server, READER, READER_PASSWORD)
    assert connection.bind()
    connection.unbind()


# Servers that do not answer


def test_no_server(options: dict[str, Any], slapd: Slapd) -> None:
    options["servers"] = ("ldaps://localhost:1", "ldap://localhost:1")
    assert unavailable(options).startswith("connect: ")


def test_the_second_server_steps_in(
    options: dict[str, Any], authority: Authority, slapd: Slapd, tmp_path: Path
) -> None:
    first = Slapd(tmp_path, company(), authority=authority)
    try:
        options["servers"] = (first.start().ldaps, slapd.ldaps)

        async def test(directory: Directory) -> None:
            assert await directory.sign_in(ANNA, password_of(ANNA)) is not None
            assert [server.healthy for server in directory.health()] == [True, None]
            first.stop()
            assert await directory.sign_in(ANNA, password_of(ANNA)) is not None
            assert [server.healthy for server in directory.health()] == [False, True]
            # A wrong password is an answer: nobody asks the next server in the hope of another.
            before = slapd.binds()
            assert await directory.sign_in(ANNA, "wrong") is None
            assert slapd.binds() == before + 2

        with_directory(options, test)
    finally:
        first.dispose()


@pytest.mark.parametrize("way", ["ldaps", "starttls"])
def test_a_server_that_hangs(
    options: dict[str, Any], authority: Authority, slapd: Slapd, tmp_path: Path, way: str
) -> None:
    hanging = Slapd(tmp_path, company(), authority=authority)
    options |= {"connect_timeout_s": 1, "receive_timeout_s": 1}
    try:
        hanging.start().freeze()
        options["servers"] = (getattr(hanging, way),)
        assert "did not answer in time" in unavailable(options)
        options["servers"] = (getattr(hanging, way), slapd.ldaps)
        assert grant_of(options, ANNA) == Grant(role=Role.ADMIN)
    finally:
        hanging.dispose()


def test_the_searching_account_is_refused(options: dict[str, Any]) -> None:
    options["bind_password"] = "not this"
    said = unavailable(options)
    assert said.startswith("bind: it refuses bind_dn: invalidCredentials")


def test_a_base_that_does_not_exist(options: dict[str, Any]) -> None:
    options["base_dn"] = "ou=nowhere,dc=example,dc=com"
    assert unavailable(options).startswith("search: there is no ou=nowhere")


def test_references_to_other_servers_are_not_followed(options: dict[str, Any]) -> None:
    """The search for people meets a reference to a port where nobody listens; the base itself may be one."""
    assert grant_of(options, ANNA) == Grant(role=Role.ADMIN)
    assert "refers to another server" in unavailable({**options, "base_dn": f"ou=elsewhere,{BASE}"})


# The test that an administrator starts


def steps_of(options: dict[str, Any], name: str = "", password: str = "") -> list[tuple[str, bool, str]]:
    found: list[tuple[str, bool, str]] = []

    async def test(directory: Directory) -> None:
        found.extend((step.name, step.ok, step.detail) for step in await directory.test(name, password))

    with_directory(options, test)
    return found


def test_the_steps_of_a_test(options: dict[str, Any]) -> None:
    steps = steps_of(options, BEN, password_of(BEN))
    assert [(name, ok) for name, ok, _ in steps] == [
        (name, True) for name in ("connect", "tls", "bind", "user", "password", "groups", "role")
    ]
    said = {name: detail for name, _, detail in steps}
    assert said["tls"].startswith("TLSv1.3")
    assert said["user"] == people.uid(BEN)
    assert people.HELPDESK in said["groups"]
    assert said["role"] == '"ben" is operator of test'
    assert password_of(BEN) not in str(steps)
    assert READER_PASSWORD not in str(steps)


def test_the_steps_of_a_test_that_fails(options: dict[str, Any], slapd: Slapd) -> None:
    assert [name for name, _, _ in steps_of(options)] == ["connect", "tls", "bind"]
    assert steps_of(options, "nobody")[-1][:2] == ("user", False)
    assert ("password", False) in [step[:2] for step in steps_of(options, BEN, "wrong")]
    assert steps_of(options, EVE)[-1][:2] == ("role", False)
    options["servers"] = ("ldaps://localhost:1", slapd.starttls)
    assert [step[:2] for step in steps_of(options, CARA)] == [
        ("connect", False),
        *((name, True) for name in ("connect", "tls", "bind", "user", "groups", "role")),
    ]
