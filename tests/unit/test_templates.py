"""Templates show values and cannot grow."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.domain.errors import InvalidInput
from jamf_bridge.mirror.file_names import stem, version
from jamf_bridge.mirror.package_facts import package_facts, templates_mark
from jamf_bridge.mirror.templates import (
    MAX_ITEMS,
    MAX_OUTPUT,
    MAX_TEXT,
    NODE_SAMPLE,
    PACKAGE_SAMPLE,
    check_template,
    render,
    render_line,
)
from jamf_bridge.servers.config import Mirror, Points
from tests.unit.mirroring import package


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("{{ stem }} ({{ version }})", "Firefox-134.0 (134.0)"),
        ("{{ size // 1048576 }} MiB, {{ size|filesizeformat }}", "136 MiB, 143.2 MB"),
        ("{{ tags }}", "browser"),
        ("{{ metadata.owner.name }}", ""),
        ("{{ metadata.owner|default('nobody') }}", "nobody"),
        ("{{ sha256[:8] }} {{ tags[0] }} {{ tags[7] }}", "00000000 browser"),
        ("{% if stage == 'prod' and 'browser' in tags %}Web{% else %}Other{% endif %}", "Web"),
        ("{{ 'a' if size > 5 else 'b' }}", "a"),
        ("{% for tag in tags %}[{{ tag|upper }}{{ '' if loop.last else ', ' }}]{% endfor %}", "[BROWSER]"),
        ("{{ stem|replace('-', ' ')|title }}", "Firefox 134.0"),
        ("{# a note #}x", "x"),
        ("{{ none }}{{ metadata }}", ""),
        ("", ""),
        ("<b>&</b>", "<b>&</b>"),
    ],
)
def test_what_templates_are_for(text: str, shown: str) -> None:
    check_template(text)
    assert render(text, PACKAGE_SAMPLE) == shown


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{{ 'a' * 10**9 }}", r"cannot contain \*"),
        ("{{ 2 ** 99999999 }}", r"cannot contain \*\*"),
        ("{{ '%999999999d' % 1 }}", "cannot contain %"),
        ("{{ 'x'.center(999999999) }}", "cannot contain calls"),
        ("{{ '{:999999999}'.format(1) }}", "cannot contain calls"),
        ("{{ range(10**9) }}", "cannot contain"),
        ("{{ stem|center(999999999) }}", "no filter"),
        ("{{ stem|indent(999999999) }}", "no filter"),
        ("{{ stem|attr('__class__') }}", "no filter"),
        ("{% set x = 1 %}", "cannot contain set"),
        ("{% macro m() %}{% endmacro %}", "cannot contain macro"),
        ("{% include 'x' %}", "cannot contain include"),
        ("{% import 'x' as y %}", "cannot contain import"),
        ("{% extends 'x' %}", "cannot contain extends"),
        ("{% block b %}{% endblock %}", "cannot contain block"),
        ("{% filter upper %}x{% endfilter %}", "cannot contain filterblock"),
        ("{% for a in tags %}{% for b in tags %}x{% endfor %}{% endfor %}", "not in another"),
        ("{% for a in tags recursive %}x{% endfor %}", "not recursive"),
        ("{{ stme }}", "no value stme; there are: filename, stem"),
        ("{{ self }}", "no value self"),
        ("{{ x", "unexpected end"),
        ("{% if %}", "Line 1"),
        ("a\n\n{% endif %}", "Line 3"),
        ("{{ size / 0 }}", "division by zero"),
        ("{{ size + stem }}", "unsupported operand"),
        ("{{ tags is sameas stem }}", "no test"),
        ("{{ " + "(" * 900 + "1" + ")" * 900 + " }}", "cannot be used|too deep"),
        ("{{ " + "not " * 300 + "size }}", "too deep"),
        ("{{ " + "9" * 4800 + " }}", "cannot be used"),
        ("{{ stem }}" * 501, "longer than 5000"),
        ("{{ stem|replace('', 'x') }}", "replaces nothing"),
    ],
)
def test_what_they_cannot_do(text: str, why: str) -> None:
    with pytest.raises(InvalidInput, match=why):
        check_template(text)


def test_python_objects_are_out_of_reach() -> None:
    for text in (
        "{{ notes.__class__ }}",
        "{{ notes['__class__'] }}",
        "{{ metadata.items }}",
        "{{ tags.append }}",
    ):
        check_template(text)
        assert render(text, PACKAGE_SAMPLE) == ""


def test_long_texts_are_refused_and_long_values_are_cut() -> None:
    values = {**PACKAGE_SAMPLE, "notes": "n" * 100_000, "tags": ["t"] * 100_000}
    assert len(render("{{ notes }}", values)) == MAX_TEXT
    assert len(render("{% for tag in tags %}x{% endfor %}", values)) == MAX_ITEMS
    assert len(render("{% for letter in notes %}x{% endfor %}", values)) == MAX_ITEMS
    assert len(render("{% for letter in '" + "a" * 4000 + "' %}x{% endfor %}", values)) == MAX_ITEMS
    with pytest.raises(InvalidInput, match="more than 10000"):
        render("{{ notes }}" * 6, values)
    with pytest.raises(InvalidInput, match="too long"):
        render("{{ notes|replace('n', 'nnnnnnnnnnnnnnnnnnnn') }}", values)


def test_a_chain_of_replacements_does_not_explode() -> None:
    text = "{{ stem" + "|replace('0', '00000000000000000000')" * 30 + " }}"
    with pytest.raises(InvalidInput):
        render(text, PACKAGE_SAMPLE)


def test_control_characters_are_dropped_and_names_are_one_line() -> None:
    values = {**PACKAGE_SAMPLE, "notes": " a\x00\x1bb\n\tc\ud800 "}
    assert render("{{ notes }}", values) == "ab\n\tc"
    assert render_line("{{ notes }}", values) == "ab c"


def test_values_nested_without_end_are_cut() -> None:
    deep: dict[str, object] = {}
    for _ in range(2000):
        deep = {"x": deep}
    assert render("{{ metadata.x.x.x }}y", {**PACKAGE_SAMPLE, "metadata": deep}) == "y"


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=60), st.text(max_size=40))
def test_any_text_gives_a_bounded_answer_or_the_reason(text: str, notes: str) -> None:
    for template in (text, "{{ " + text + " }}", "{% " + text + " %}"):
        try:
            check_template(template)
            shown = render(template, {**PACKAGE_SAMPLE, "notes": notes})
        except InvalidInput:
            continue
        assert len(shown) <= MAX_OUTPUT


@given(st.text(max_size=200))
def test_values_are_never_read_as_templates(value: str) -> None:
    shown = render("{{ notes }}", {**PACKAGE_SAMPLE, "notes": "{{ 7 // 1 }}" + value})
    assert shown.startswith("{{ 7 // 1 }}")


def test_templates_of_nodes_have_other_values() -> None:
    check_template("ODS - {{ name }} {{ context }} {{ url }}", NODE_SAMPLE)
    with pytest.raises(InvalidInput, match="no value stem"):
        check_template("{{ stem }}", NODE_SAMPLE)


def test_the_defaults_are_valid() -> None:
    config = Mirror()
    for text in (config.name, config.category, config.notes):
        check_template(text)
    check_template(Points().name, NODE_SAMPLE)


@pytest.mark.parametrize(
    ("filename", "short", "number"),
    [
        ("Firefox-134.0.pkg", "Firefox-134.0", "134.0"),
        ("Tool 1.2 (3).pkg.zip", "Tool 1.2 (3)", "1.2"),
        ("Tool.mpkg.zip", "Tool", ""),
        ("Office_16.78.23100802_Installer.pkg", "Office_16.78.23100802_Installer", "16.78.23100802"),
        ("macOS-14.5-App-2.1b3.PKG", "macOS-14.5-App-2.1b3", "2.1b3"),
        ("Xcode_15.dmg", "Xcode_15", "15"),
        ("App v3.mpkg", "App v3", "3"),
        ("7-Zip.pkg", "7-Zip", ""),
        ("x-1.2.3", "x-1.2.3", "1.2.3"),
        ("noext", "noext", ""),
        (".pkg", ".pkg", ""),
    ],
)
def test_names(filename: str, short: str, number: str) -> None:
    assert (stem(filename), version(filename)) == (short, number)


def test_every_value_of_the_sample_comes_from_a_package() -> None:
    made = package("Tool-1.2.pkg", notes="n", metadata={"k": {"v": 1}}, tags=("a", "b"), uploaded_by="me")
    text = "|".join("{{" + name + "}}" for name in PACKAGE_SAMPLE if name != "metadata")
    facts = package_facts(made, Mirror(name="{{ metadata.k.v }}", category="{{ tags[1] }}", notes=text))
    assert (facts.record_name, facts.record_category) == ("1", "b")
    assert facts.record_notes == f"Tool-1.2.pkg|Tool-1.2|1.2|12|{made.body.sha256}|prod|a, b|n|me"
    assert set(facts.hashes) == {"md5", "sha1", "sha256", "sha512", "sha3_512"}


def test_the_mark_of_the_templates_follows_each_of_them() -> None:
    marks = {templates_mark(Mirror())} | {
        templates_mark(Mirror(**{part: "x"})) for part in ("name", "category", "notes")
    }
    assert len(marks) == 4
