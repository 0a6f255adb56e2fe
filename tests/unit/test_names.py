"""File names and the ids that follow from names and keys."""

import base64
import hashlib
import string
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.domain.errors import InvalidName
from appliance.domain.names import MAX_NAME_BYTES, check_filename, node_id, package_id


def accepted(name: str) -> bool:
    """Whether a name passes."""
    try:
        check_filename(name)
    except InvalidName:
        return False
    return True


@pytest.mark.parametrize(
    "name",
    [
        "Firefox 133.0.pkg",
        "a",
        "plus+hash#percent%.dmg",
        "Büro \u2013 Köln.pkg",
        "日本語.pkg",
        "emoji 📦.pkg",
        "x" * MAX_NAME_BYTES,
        "é" * 127,
        "console.pkg",
        "com10.pkg",
        "a..b",
    ],
)
def test_good_names_pass_unchanged(name: str) -> None:
    assert check_filename(name) == name


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("", "empty"),
        (".", "begins with a dot"),
        ("..", "begins with a dot"),
        (".hidden", "begins with a dot"),
        ("a/b", '"/"'),
        ("../a", '"/"'),
        ("a\\b", '"\\"'),
        ("c:stream", '":"'),
        ("what?", '"?"'),
        ("a*", '"*"'),
        ('say "hi"', '"""'),
        ("a<b", '"<"'),
        ("a|b", '"|"'),
        ("x" * 256, "256 bytes"),
        ("é" * 128, "256 bytes"),
        ("a\0b", "U+0000"),
        ("a\nb", "U+000A"),
        ("a\x7fb", "U+007F"),
        ("a\u202eb", "U+202E"),
        ("a\u2028b", "U+2028"),
        ("a\u200bb", "U+200B"),
        ("a\ud800b", "not valid Unicode"),
        (" a", "space"),
        ("a ", "space"),
        ("a\u00a0", "space"),
        ("a.", "ends with a dot"),
        ("CON", "reserved"),
        ("con.pkg", "reserved"),
        ("Nul .tar.gz", "reserved"),
        ("LPT9.pkg", "reserved"),
        ("com¹.pkg", "reserved"),
        ("CONIN$", "reserved"),
    ],
)
def test_bad_names_are_refused_with_the_rule(name: str, rule: str) -> None:
    with pytest.raises(InvalidName) as caught:
        check_filename(name)
    assert rule in caught.value.message
    assert not caught.value.retryable


@given(st.text(max_size=300))
def test_an_accepted_name_is_one_safe_path_segment(name: str) -> None:
    try:
        checked = check_filename(name)
    except InvalidName:
        return
    assert checked == unicodedata.normalize("NFC", name)
    assert check_filename(checked) == checked
    assert 0 < len(checked.encode()) <= MAX_NAME_BYTES
    assert not set(checked) & set("/\\\0\r\n\t:")
    assert checked not in {".", ".."}
    assert checked == checked.strip()


@given(st.text(alphabet=string.ascii_letters + string.digits + " -_+#%", min_size=1, max_size=200))
def test_plain_names_are_accepted(name: str) -> None:
    name = f"pkg{name}x"
    assert check_filename(name) == name


@given(st.text(min_size=1, max_size=60).filter(accepted))
def test_unicode_forms_and_case_do_not_change_the_id(name: str) -> None:
    checked = check_filename(name)
    id = package_id(checked)
    assert len(id) == 32
    assert set(id) <= set("abcdefghijklmnopqrstuvwxyz234567")
    for form in ("NFC", "NFD"):
        assert package_id(unicodedata.normalize(form, checked)) == id
    assert package_id(checked.casefold()) == id


def test_other_names_have_other_ids() -> None:
    names = ["a.pkg", "b.pkg", "a.pk", "a .pkg", "a-1.pkg", "a-2.pkg"]
    assert len({package_id(name) for name in names}) == len(names)
    assert package_id("Firefox.pkg") == package_id("FIREFOX.PKG")
    assert package_id("straße.pkg") == package_id("STRASSE.pkg")


def test_ids_are_those_that_other_versions_compute() -> None:
    # Fixed for ever: nodes of different versions must agree.
    digest = hashlib.sha256(b"ods-package\0firefox 133.0.pkg").digest()[:20]
    assert package_id("Firefox 133.0.pkg") == base64.b32encode(digest).decode().lower()
    assert package_id("Firefox 133.0.pkg") == "pugebnfl3ykkme5g5jxmby4yje4iqqt7"
    assert node_id(bytes(32)) == "mzuhvlpymk6xo3epygfy5h4oeaejofefn3rdhm4qfjmr2dk7fesq"


@given(st.binary(min_size=32, max_size=32))
def test_a_node_id_is_the_fingerprint_of_the_key(key: bytes) -> None:
    id = node_id(key)
    assert len(id) == 52
    assert base64.b32decode(id.upper() + "====") == hashlib.sha256(key).digest()
