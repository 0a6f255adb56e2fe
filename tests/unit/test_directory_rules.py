"""The rules of the directory: filters, DNs, grants, settings."""

import ast
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ldap3.operation.search import parse_filter
from ldap3.protocol.convert import prepare_filter_for_sending
from pydantic import ValidationError

from appliance.service.directory.grants import Grant, Grants, Group
from appliance.service.directory.naming import dn_key, escaped, filled, is_login, login_key
from appliance.service.principal import Role, limited
from config.directory import Directory, parse_grant
from config.loading import SettingsFault, as_dict, load

ROOT = Path(__file__).parents[2]
ENOUGH = {
    "servers": ["ldaps://dc1.example.com"],
    "base_dn": "dc=example,dc=com",
    "groups": {"admins": "admin"},
}
TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)


@given(TEXT)
def test_a_value_stays_one_value(value: str) -> None:
    """The library that sends filters reads one comparison, with these very bytes."""
    tree = parse_filter(
        filled("(&(objectClass=person)(uid={username}))", {"username": value}), None, True, True, None, False
    )
    both = tree.elements[0].elements
    assert [node.assertion["attr"] for node in both] == ["objectClass", "uid"]
    assert bytes(prepare_filter_for_sending(both[1].assertion["value"])) == value.encode()


@given(TEXT, TEXT)
def test_values_are_not_filled_twice(first: str, second: str) -> None:
    text = filled("({dn}|{username})", {"dn": "{username}" + first, "username": second})
    assert text == f"({escaped('{username}' + first)}|{escaped(second)})"


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("*", r"\2a"),
        ("(", r"\28"),
        (")", r"\29"),
        ("\\", r"\5c"),
        ("\0", r"\00"),
        ("ö", "ö"),
        ("a b ", r"a b\20"),
    ],
)
def test_what_is_escaped(value: str, written: str) -> None:
    assert escaped(value) == written


@pytest.mark.parametrize("text", ["anna", "anna.b@example.com", "zoë", "O'Neil (IT)", "a b", "*"])
def test_who_may_be_asked_for(text: str) -> None:
    assert is_login(text)


@pytest.mark.parametrize(
    "text", ["", " ", " a", "a ", "a  b", "a\tb", "a\n", "a\0", "\u00ad", "a\u202eb", "\ud800", "a" * 257]
)
def test_who_may_not(text: str) -> None:
    assert not is_login(text)


def test_spellings_of_a_name() -> None:
    assert login_key("ANNA") == login_key("anna") == login_key("\uff21nna")


def test_spellings_of_a_dn() -> None:
    same = [
        r"cn=Smith\, J,ou=People,dc=x",
        r"CN=smith\2C J, OU=people , DC=X",
        r"cn=Smith\2c  J,ou=people,dc=x",
    ]
    assert len({dn_key(dn) for dn in same}) == 1
    assert dn_key("cn=a,dc=x") != dn_key("cn=a,dc=y")
    assert dn_key("not a dn") is None


@given(TEXT)
def test_a_dn_key_never_fails(text: str) -> None:
    dn_key(text)


def test_what_groups_give() -> None:
    grants = Grants(
        {"cn=a,dc=x": "operator:test", "desk": "operator:dev", "all": "operator", "look": "viewer"}
    )
    a, desk = Group(dn="CN=A,DC=X"), Group(dn="cn=other,dc=x", names=("Desk",))
    everything, look = Group(dn="cn=1,dc=x", names=("all",)), Group(dn="cn=2,dc=x", names=("look",))
    assert grants.of_all([]) is None
    assert grants.of_all([Group(dn="cn=desk,dc=x")]) is None  # its cn is not known; a DN is not guessed at
    assert grants.of_all([look, a]) == Grant(role=Role.OPERATOR, stages=("test",))
    assert grants.of_all([a, desk]) == Grant(role=Role.OPERATOR, stages=("test", "dev"))
    assert grants.of_all([a, everything]) == Grant(role=Role.OPERATOR)


def test_two_limits_together() -> None:
    assert limited(Role.OPERATOR, (), ("test",)) == (Role.OPERATOR, ("test",))
    assert limited(Role.OPERATOR, ("dev", "test"), ("test", "prod")) == (Role.OPERATOR, ("test",))
    assert limited(Role.OPERATOR, ("dev",), ("prod",)) == (Role.VIEWER, ())  # nothing, not everything
    assert limited(Role.ADMIN, (), ()) == (Role.ADMIN, ())
    assert limited(Role.VIEWER, ("dev",), ()) == (Role.VIEWER, ())


def test_how_a_grant_is_written() -> None:
    assert parse_grant("operator: test, dev") == ("operator", ("test", "dev"))
    for wrong in ("", "boss", "operator:", "operator:,", "admin:test", "viewer:test", "operator test"):
        with pytest.raises(ValueError, match="is not viewer, operator or admin"):
            parse_grant(wrong)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"servers": ["dc1.example.com"]}, "is not a URL such as"),
        ({"servers": ["http://dc1"]}, "is not a URL such as"),
        ({"servers": ["ldaps://dc1:0"]}, "is not a URL such as"),
        ({"servers": ["ldaps://dc1/dc=x"]}, "is not a URL such as"),
        ({"servers": ["ldaps://user:secret@dc1"]}, "is not a URL such as"),
        ({"servers": ["ldaps://a", "ldaps://a"]}, "each server once"),
        ({"base_dn": ""}, "base_dn: with servers it is needed"),
        ({"bind_dn": "cn=reader"}, "belong together"),
        ({"bind_password": "x"}, "belong together"),
        ({"groups": {}}, "groups: with servers it is needed"),
        ({"groups": {"": "admin"}}, "a group has a name"),
        ({"user_filter": "(uid=anna)"}, "it has {username}"),
        ({"user_filter": "uid={username}"}, "in parentheses"),
        ({"user_filter": "((uid={username})"}, "in parentheses"),
        ({"user_filter": "(uid={user})"}, "there is no {user}"),
        ({"user_filter": "(uid={username)"}, "there is no {"),
        ({"user_filter": "(|(uid={username})(dn={dn}))"}, "and no {dn}"),
        ({"group_filter": "(member=x)"}, "it has {dn} or {username}"),
        ({"name_attribute": "uid)(x"}, "not the name of an attribute"),
    ],
)
def test_wrong_settings(change: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said.replace("{", r"\{").replace("}", r"\}")):
        Directory.model_validate({**ENOUGH, **change})


def test_settings_of_a_file_and_of_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "ods.yaml"
    file.write_text(
        "directory:\n  servers: [ldaps://dc1, 'ldap://dc2:3389']\n  base_dn: dc=x\n  bind_dn: cn=r\n"
        "  bind_password: hush hush\n  groups:\n    cn=Admins,dc=x: admin\n    helpdesk: operator:test\n"
    )
    settings = load(file, {})
    assert settings.directory.groups == {"cn=Admins,dc=x": "admin", "helpdesk": "operator:test"}
    assert "hush" not in str(as_dict(settings))
    environment = {"ODS_DIRECTORY_GROUPS": "cn=A,dc=x=admin; desk=operator:dev,test"}
    assert load(file, environment).directory.groups == {"cn=A,dc=x": "admin", "desk": "operator:dev,test"}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("helpdesk: boss", 'directory.groups: "boss" is not viewer'),
        ("helpdesk: operator:beta", "beta is not one of node.stages"),
        ("helpdesk: [admin]", "directory.groups.helpdesk"),
    ],
)
def test_wrong_groups_of_a_file(tmp_path: Path, line: str, said: str) -> None:
    file = tmp_path / "ods.yaml"
    file.write_text(f"directory:\n  servers: [ldaps://dc1]\n  base_dn: dc=x\n  groups:\n    {line}\n")
    with pytest.raises(SettingsFault) as caught:
        load(file, {})
    assert said in str(caught.value)


def test_only_one_file_opens_connections() -> None:
    """ldap3 believes any certificate unless told otherwise: nothing else may reach `Connection` or `Server`."""
    openers = set()
    for path in (
        file for room in ("appliance", "jamf_bridge", "web", "config") for file in (ROOT / room).rglob("*.py")
    ):
        for node in ast.walk(ast.parse(path.read_text())):
            names = (
                [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            )
            module = node.module or "" if isinstance(node, ast.ImportFrom) else ""
            if "ldap3" in names or module == "ldap3" or module.startswith("ldap3.core.c"):
                openers.add(path.relative_to(ROOT).as_posix())
    assert openers == {"appliance/service/directory/conversation.py"}
