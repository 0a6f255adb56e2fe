"""Settings: where values come from, and what is said about wrong ones."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config import loading
from config.fields import parse_seconds, parse_size
from config.loading import SettingsFault, as_dict, find_file, load, render_default
from config.settings import Settings

ROOT = Path(__file__).resolve().parents[2]


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "ods.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def faults(path: Path | None = None, environment: dict[str, str] | None = None, **flags: object) -> list[str]:
    with pytest.raises(SettingsFault) as caught:
        load(path, environment or {}, {name.replace("__", "."): value for name, value in flags.items()})
    return caught.value.faults


def test_the_default_file_is_generated() -> None:
    assert (ROOT / "config" / "ods.yaml").read_text(encoding="utf-8") == render_default(), (
        "write it anew: ods config default > config/ods.yaml"
    )


def test_the_default_file_says_what_no_file_says() -> None:
    assert load(ROOT / "config" / "ods.yaml", {}) == load(None, {}) == Settings()


def test_every_setting_has_a_sentence() -> None:
    for path, info in loading._leaves(Settings):
        assert info.description, path
        assert info.description.endswith("."), path


def test_flag_before_environment_before_file_before_default(tmp_path: Path) -> None:
    path = write(tmp_path, "http: {port: 1001, host: file}\nnode: {name: file}\n")
    environment = {"ODS_HTTP_PORT": "1002", "ODS_HTTP_HOST": "environment"}
    settings = load(path, environment, {"http.port": 1003, "http.host": None})
    assert (settings.http.port, settings.http.host, settings.node.name) == (1003, "environment", "file")
    assert settings.log.level == "info"


@pytest.mark.parametrize(
    ("variable", "text", "key", "value"),
    [
        ("ODS_DATA_DIR", "/srv/ods", "data_dir", "/srv/ods"),
        ("ODS_HTTP_HOST", "::1", "http.host", "::1"),
        ("ODS_HTTP_PORT", "9000", "http.port", 9000),
        ("ODS_NODE_URL", "https://a.example/", "node.url", "https://a.example"),
        ("ODS_NODE_NAME", "Berlin", "node.name", "Berlin"),
        ("ODS_NODE_TAGS_TAKE", "a, b,", "node.tags_take", ["a", "b"]),
        ("ODS_DATABASE_URL", "mongodb://h/db", "database.url", "mongodb://h/db"),
        ("ODS_ADMIN_PASSWORD", "a long password", "admin.password", "a long password"),
        ("ODS_HTTP_TLS_SELF_SIGNED", "yes", "http.tls.self_signed", True),
        ("ODS_TRANSFERS_MIN_FREE", "5GiB", "transfers.min_free", 5 * 2**30),
        ("ODS_REPLICATION_RECONCILE_S", "5m", "replication.reconcile_s", 300.0),
    ],
)
def test_environment_twins(variable: str, text: str, key: str, value: object) -> None:
    found: object = as_dict(load(None, {variable: text}), secrets=True)
    for name in key.split("."):
        assert isinstance(found, dict)
        found = found[name]
    assert found == value


def test_an_empty_variable_counts_as_not_given() -> None:
    assert load(None, {"ODS_HTTP_PORT": "", "ODS_NODE_STAGES": " "}) == Settings()


def test_every_fault_is_told_with_key_reason_and_line(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "node:\n  nmae: x\nhttp:\n  port: 80800\n  tls:\n    certificate: c.pem\n"
        "transfers:\n  min_free: lots\nlog: loud\nflavour: sweet\n",
    )
    found = faults(path, {"ODS_UPLOADS_EXPIRE_HOURS": "-1"}, worker__lease_s="1s")
    expected = [
        f"{path}:2: node.nmae: there is no such setting; did you mean name?",
        f"{path}:4: http.port: it has to be at most 65535 (it is '80800')",
        f"{path}:6: http.tls.certificate: it and key belong together: set both or none (it is 'c.pem')",
        f"{path}:8: transfers.min_free: a size is a number of bytes, or a text such as \"5 GiB\" (it is 'lots')",
        f"{path}:9: log: it is a section; write its settings indented below it (it is 'loud')",
        f"{path}:10: flavour: there is no such setting",
        "environment ODS_UPLOADS_EXPIRE_HOURS: uploads.expire_hours: it has to be more than 0 (it is '-1')",
        "--lease-s: worker.lease_s: it has to be at least 3 (it is '1s')",
    ]
    assert sorted(found) == sorted(expected)


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("http:\n  port: 1\n  port: 2\n", 3, "http.port: it is set twice"),
        ("node: {name: x\n", 2, "not valid YAML"),
        ("a: &a [1]\nb: *a\n", 2, "references"),
        ("- a\n- b\n", 1, "not a list of settings"),
        ("just words\n", 1, "not a list of settings"),
        ("node:\n  name: !!python/object/apply:os.getcwd []\n", 2, "not allowed"),
        ("node:\n  stages: [a, {b: c}]\n", 2, "node.stages: it is a list of words"),
        ("node:\n  stages: dev\n", 2, "node.stages: it is a list"),
        ("node:\n  stage: live\n", 2, "node.stage: live is not one of stages (dev, test, prod)"),
        ("uploads:\n  stage: live\n", 2, "uploads.stage: live is not one of node.stages"),
        ("? [a, b]\n: c\n", 1, "a key is a word"),
        ("a: " + "[" * 50 + "]" * 50 + "\n", 1, "nested too deeply"),
        ("node:\n  url: ods.example.com\n", 2, "node.url: it is not a URL"),
        ("node:\n  url: https://me:secret@ods.example.com\n", 2, "node.url: it is not a URL"),
        ("database:\n  url: mysql://x\n", 2, "database.url"),
        ("http:\n  context: ../up\n", 2, "http.context"),
        ("admin:\n  password: too-short\n", 2, "admin.password: a password has 12 to 1024 characters"),
        ("---\na: 1\n---\nb: 2\n", 3, "not valid YAML"),
        (
            "http:\n  port: 1\n  download_username: me\n",
            3,
            "http.download_username: it and download_password belong",
        ),
        ("http:\n  download_username: 'a:b'\n  download_password: x\n", 2, "no colon"),
        ("http:\n  host: https://h\n", 2, "http.host: it is not an address"),
        (f"http:\n  host: {'a' * 80}\n", 2, "http.host: it is not an address"),
        ("http:\n  host: a..b\n", 2, "http.host: it is not an address"),
        (f"node:\n  url: http://{'a' * 80}:8080\n", 2, "node.url: it is not an address"),
        (f"mail:\n  host: {'a' * 80}\n  sender: a@b\n", 2, "mail.host: it is not an address"),
        (f"directory:\n  servers: ['ldaps://{'a' * 80}']\n", 2, "it is not an address"),
        ("mail:\n  host: h\n  password: too-short\n", 3, "mail.password: it and username belong together"),
        ("mail:\n  username: me\n", 2, "mail.username: it and password belong together"),
        ("directory:\n  bind_dn: cn=x\n", 2, "directory.bind_dn: it and bind_password belong together"),
        ("node:\n  url: http://h:99999\n", 2, "node.url: it is not a URL"),
        ("node:\n  url: http://h:x\n", 2, "node.url: it is not a URL"),
        ('node:\n  name: "a\\x01b"\n', 2, "node.name: it has characters that cannot be printed"),
        ('node:\n  tags_take: ["a,b"]\n', 2, "node.tags_take: 'a,b' is not 1 to 64 printable characters"),
        ("node:\n  stage: a\n  stages: [a, b]\n", 3, "uploads.stage: prod is not one of node.stages"),
        ('data_dir: "a\\0b"\n', 1, "data_dir: a path has no NUL character"),
        ("uploads:\n  max_size: 0\n", 2, "uploads.max_size: it has to be at least 1"),
        (f"transfers:\n  min_free: {'9' * 400} GiB\n", 2, "transfers.min_free: a size is"),
        ("transfers:\n  min_free: 9999999 TiB\n", 2, "transfers.min_free: it has to be at most"),
        ("worker:\n  lease_s: " + "9" * 400 + "d\n", 2, "worker.lease_s"),
        ("notifications:\n  allowed_hosts: ['https://h']\n", 2, "https://h is not a host name"),
    ],
)
def test_files_that_are_refused(tmp_path: Path, text: str, line: int, words: str) -> None:
    path = write(tmp_path, text)
    found = faults(path)
    assert any(fault.startswith(f"{path}:{line}:") and words in fault for fault in found), found
    assert not any("too-short" in fault for fault in found), "a secret is in a message"


def test_words_stay_words(tmp_path: Path) -> None:
    """YAML 1.1 would make True, 8 and 754 of these."""
    path = write(
        tmp_path, "node: {name: on, tags_take: [no, 010, 2026-01-01]}\nhttp: {port: 08080, host: 12:34}\n"
    )
    settings = load(path, {})
    assert settings.node.name == "on"
    assert settings.node.tags_take == ("no", "010", "2026-01-01")
    assert (settings.http.port, settings.http.host) == (8080, "12:34")


def test_nothing_after_the_colon_is_the_default(tmp_path: Path) -> None:
    assert load(write(tmp_path, "\ufeffnode:\nhttp:\n  port:\n  host: ~\n"), {}) == Settings()


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    assert "No such file" in faults(tmp_path / "none.yaml")[0]
    (tmp_path / "latin.yaml").write_bytes(b"node: {name: \xe9}\n")
    assert "UTF-8" in faults(tmp_path / "latin.yaml")[0]
    assert "larger" in faults(write(tmp_path, "#" * (loading.MAX_FILE + 1)))[0]


def test_misspelt_variables_are_refused_and_those_of_kubernetes_are_not() -> None:
    assert faults(None, {"ODS_HTTP_PROT": "1"}) == [
        "environment ODS_HTTP_PROT: there is no such setting; did you mean ODS_HTTP_PORT?"
    ]
    others = {"ODS_URL": "x", "ODS_NODE_SERVICE_HOST": "1.2.3.4", "ODS_NODE_PORT": "tcp://1.2.3.4:80"}
    assert load(None, others) == Settings()


def test_secrets_are_masked_everywhere() -> None:
    environment = {
        "ODS_ADMIN_PASSWORD": "hunter22hunter22",
        "ODS_DATABASE_URL": "mongodb://u:hunter22hunter22@h/db",
    }
    shown = str(as_dict(load(None, environment)))
    assert "hunter22" not in shown
    assert "mongodb://u:***@h/db" in shown
    assert "hunter22" not in str(
        faults(None, {"ODS_DATABASE_URL": "mysql://u:hunter22@h", "ODS_HTTP_PORT": "x"})
    )


def test_a_password_with_an_at_sign_or_in_the_query_is_masked_whole() -> None:
    url = "mongodb://u:hunter@hunter@h/db?tlsCertificateKeyFilePassword=hunter&w=1"
    shown = as_dict(load(None, {"ODS_DATABASE_URL": url}))["database"]["url"]
    assert shown == "mongodb://u:***@h/db?tlsCertificateKeyFilePassword=***&w=1"


def test_files_that_are_named_have_to_be_there(tmp_path: Path) -> None:
    path = write(tmp_path, f"http:\n  tls:\n    certificate: {tmp_path}/c.pem\n    key: {tmp_path}/k.pem\n")
    (tmp_path / "k.pem").touch()
    environment = {"ODS_MAIL_CA_FILE": f"{tmp_path}/none.pem"}
    assert load(path, environment).http.tls.enabled
    with pytest.raises(SettingsFault) as caught:
        load(path, environment, files=True)
    assert caught.value.faults == [
        f"{path}:3: http.tls.certificate: there is no file {tmp_path}/c.pem",
        f"environment ODS_MAIL_CA_FILE: mail.ca_file: there is no file {tmp_path}/none.pem",
    ]


def test_which_file_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "PLACES", (tmp_path / "one.yaml", tmp_path / "two.yaml"))
    assert find_file({}) is None
    (tmp_path / "two.yaml").touch()
    assert find_file({}) == tmp_path / "two.yaml"
    (tmp_path / "one.yaml").touch()
    assert find_file({}) == tmp_path / "one.yaml"
    assert find_file({"ODS_CONFIG": "/elsewhere.yaml"}) == Path("/elsewhere.yaml")


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("17", 17), ("1KB", 1000), ("1 KiB", 1024), ("1.5 GiB", 3 * 2**29), ("2tib", 2**41), (5, 5)],
)
def test_sizes(text: object, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "many", "-1", "1 GiB extra", "1e9", "5 apples"])
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="a size is"):
        parse_size(text)


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("5m", 300), ("1.5 h", 5400), ("7d", 604_800)])
def test_durations(text: str, seconds: float) -> None:
    assert parse_seconds(text) == seconds


@given(text=st.text(max_size=200))
def test_no_file_makes_it_stumble(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    """Whatever is in the file, there are settings, or faults with a place."""
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(text, encoding="utf-8", errors="ignore")
    found: list[str] = []
    try:
        load(path, {})
    except SettingsFault as exc:
        found = exc.faults
    assert all(fault.startswith(str(path)) for fault in found), found


def test_too_many_tags_are_told_in_plain_words(tmp_path: Path) -> None:
    path = write(tmp_path, f"node:\n  tags_take: [{', '.join(f't{number}' for number in range(900))}]\n")
    assert faults(path) == [f"{path}:2: node.tags_take: there are 900 words; at most 500 are allowed"]
