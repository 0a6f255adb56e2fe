"""Templates that admins write: what they may do, and what they cannot do to the node."""

import json

import pytest

from appliance.domain.errors import ApplianceError
from appliance.domain.notify_errors import TemplateInvalid
from appliance.service.notifications import template as module
from appliance.service.notifications.template import MAX_OUTPUT, render
from tests.unit.test_notification_rules import TELLER, event

SOME = event(filename='A "quoted" <b>.pkg', tags=["a", "b", "c"], size=3, nested={"x": {"y": 1}})


def made(text: str, content_type: str = "text/plain") -> str:
    return render(text, SOME, TELLER, content_type=content_type).decode()


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("{{ type }} {{ data.actor|upper }}", "package.published ANNA"),
        ("{% for tag in data.details.tags %}{{ loop.index }}{{ tag }}{% endfor %}", "1a2b3c"),
        ("{% if data.details.size > 2 %}big{% else %}small{% endif %}", "big"),
        ("{{ data.details.nested.x['y'] + 1 }}", "2"),
        ("{{ data.details.tags|join('-') }}", "a-b-c"),
        ("{{ data.details.none|default('?') }}", "?"),
        ("{% for i in range(3) %}{{ i }}{% endfor %}", "012"),
        ("{{ data.details.tags|length ~ '/' ~ data.seq }}", "3/7"),
        ("{% for k, v in data.details.nested|items %}{{ k }}{% endfor %}", "x"),
        ("{{ 'yes' if 'a' in data.details.tags else 'no' }}", "yes"),
        ("{{ data.details.filename|e }}", "A &#34;quoted&#34; &lt;b&gt;.pkg"),
    ],
)
def test_what_templates_can_do(text: str, result: str) -> None:
    assert made(text) == result


def test_json_by_tojson_is_json() -> None:
    text = '{"text": {{ data.details.filename|tojson }}, "all": {{ data|tojson }}}'
    found = json.loads(made(text, "application/json; charset=utf-8"))
    assert found["text"] == 'A "quoted" <b>.pkg'
    with pytest.raises(TemplateInvalid, match="tojson"):
        made('{"text": "{{ data.details.filename }}"}', "application/json")


BOMBS = [
    "{{ 'a' * 1000000000 }}",
    "{{ 9 ** 9 ** 9 }}",
    "{{ '%1000000000d' % 1 }}",
    "{{ 7 // 0 }}",
    "{{ 'a'.ljust(1000000000) }}",
    "{{ '{:1000000000}'.format(1) }}",
    "{{ 'a'|center(1000000000) }}",
    "{{ data|tojson(indent=1000000000) }}",
    "{{ data|tojson(1000000000) }}",
    "{{ 'a'|indent(1000000000) }}",
    "{% set x = 'aaaaaaaa' %}" + "{% set x = x ~ x %}" * 40 + "{{ x }}",
    "{% for i in range(1000000000) %}x{% endfor %}",
    "{% for i in range(1000) %}{% for j in range(1000) %}xxxxxxxxxx{% endfor %}{% endfor %}",
    "{% for i in range(1000) %}{% for j in range(1000) %}{{ data|tojson|length }}{% endfor %}{% endfor %}",
    "{% for i in range(1000) %}{% for j in range(1000) %}"
    "{% if data|tojson|tojson|length == 1 %}x{% endif %}{% endfor %}{% endfor %}",
    "{% for i in range(2) %}{% for j in range(2) %}{% for k in range(2) %}x{% endfor %}{% endfor %}{% endfor %}",
    "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}",
    "{{ data.actor" + "|tojson" * 400 + " }}",
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "{{ ''.__class__.__mro__ }}",
    "{{ ''['__class__'] }}",
    "{{ range.__self__ }}",
    "{{ ''|attr('__class__') }}",
    "{{ cycler }}",
    "{{ lipsum(100) }}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}",
    "{{ missing }}",
    "{{ data.missing.more }}",
    "{{ 1|bounded }}",
    "{{ data.actor|int.x }}",
    "{% for a in 5 %}{% endfor %}",
    "{{ ",
    "{% nope %}",
    "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "{{ " + "9" * 6000 + " }}",
    "x" * 20_000,
    "{{ range(1, 2, 0) }}",
    "{{ {}[[]] }}",
]


@pytest.mark.parametrize("text", BOMBS, ids=range(len(BOMBS)))
def test_what_templates_cannot_do(text: str) -> None:
    with pytest.raises(ApplianceError) as caught:
        made(text)
    assert isinstance(caught.value, TemplateInvalid)
    assert len(caught.value.message) < 1000


def test_time_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(1_000_000))
    monkeypatch.setattr(module.time, "monotonic", lambda: float(next(clock)))
    with pytest.raises(TemplateInvalid, match="longer than"):
        made("{% for i in range(10) %}{{ data.actor }}{% endfor %}")


def test_output_has_a_bound() -> None:
    with pytest.raises(TemplateInvalid, match=str(MAX_OUTPUT)):
        made("{% for i in range(1000) %}" + "x" * 1000 + "{% endfor %}")
