"""Names, categories and notes of records, from an admin's templates (Jinja2).

A template may show values, choose between them and go once through a list. It may not call, assign, multiply, include
or define anything: without state and without calls, nothing in it can grow. Jinja2's own sandbox does not bound what
is computed: `'a' * 10**9` and `'%999999999d' % 1` are harmless to it.
"""

import itertools
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.meta import find_undeclared_variables
from jinja2.runtime import LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment

from appliance.domain.errors import InvalidInput

MAX_TEMPLATE = 5_000  #: characters
MAX_OUTPUT = 10_000  #: characters
MAX_TEXT = 2_000  #: characters of one value
MAX_ITEMS = 100  #: of one list
_MAX_DEPTH = 40  #: of a template's syntax, and of a value

#: what a template of a package record may use
PACKAGE_SAMPLE: Mapping[str, Any] = {
    "filename": "Firefox-134.0.pkg",
    "stem": "Firefox-134.0",
    "version": "134.0",
    "size": 143_210_987,
    "sha256": "0" * 64,
    "stage": "prod",
    "tags": ["browser"],
    "notes": "notes",
    "metadata": {},
    "uploaded_by": "admin",
}
#: what a template of a distribution point record may use
NODE_SAMPLE: Mapping[str, Any] = {
    "name": "zurich",
    "id": "n" * 52,
    "url": "https://ods.example.com",
    "stage": "prod",
    "context": "/ods",
}

_FILTERS = (
    "abs", "capitalize", "count", "d", "default", "filesizeformat", "first", "float", "int", "join", "last", "length",
    "list", "lower", "replace", "reverse", "round", "sort", "string", "title", "trim", "truncate", "unique", "upper",
)  # fmt: skip
_TESTS = (
    "boolean", "defined", "divisibleby", "eq", "equalto", "even", "false", "ge", "greaterthan", "gt", "in", "le",
    "lessthan", "lower", "lt", "mapping", "ne", "none", "number", "odd", "sequence", "string", "true", "undefined",
    "upper",
)  # fmt: skip
_LIMITED = "limited"  #: put before every loop
_OF_LOOP = ("first", "index", "index0", "last", "length")
_ALLOWED = (
    nodes.Template, nodes.Output, nodes.TemplateData, nodes.Name, nodes.Const, nodes.List, nodes.Tuple,
    nodes.Getattr, nodes.Getitem, nodes.Slice, nodes.Filter, nodes.Test, nodes.If, nodes.CondExpr, nodes.For,
    nodes.Compare, nodes.Operand, nodes.And, nodes.Or, nodes.Not, nodes.Neg, nodes.Pos, nodes.Concat, nodes.Add,
    nodes.Sub, nodes.Div, nodes.FloorDiv, nodes.Keyword,
)  # fmt: skip
#: what Python and Jinja2 raise for a template that makes no sense, or that meets values it was not made for
_FAULTS = (
    jinja2.TemplateError, ArithmeticError, AttributeError, LookupError, MemoryError, RecursionError, SyntaxError,
    TypeError, ValueError,
)  # fmt: skip


class _Values(ImmutableSandboxedEnvironment):
    """Looks into mappings and lists only, never at the attributes of Python objects."""

    def getattr(self, obj: Any, attribute: str) -> Any:
        return self.getitem(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        if isinstance(obj, LoopContext) and argument in _OF_LOOP:
            return getattr(obj, argument)
        if isinstance(obj, Mapping | list | tuple | str):
            try:
                return obj[argument]
            except (LookupError, TypeError):
                pass
        return self.undefined(name=str(argument)[:100])


def _environment() -> _Values:
    made = _Values(undefined=jinja2.ChainableUndefined, finalize=_shown, autoescape=False, cache_size=0)
    made.globals.clear()
    made.filters = {name: made.filters[name] for name in _FILTERS}
    made.filters |= {"replace": _replace, _LIMITED: _limited}
    made.tests = {name: made.tests[name] for name in _TESTS}
    return made


def _shown(value: Any) -> Any:
    """What is written for a value: nothing for null, a list as its items."""
    if value is None or isinstance(value, Mapping):
        return ""
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else value


def _replace(text: Any, old: str, new: str) -> str:
    """Jinja2's filter, with a bound."""
    source = str(text)
    if not old or len(source) + source.count(old) * len(new) > MAX_OUTPUT:
        raise InvalidInput("replace makes too long a text, or replaces nothing.")
    return source.replace(old, new)


def _limited(items: Any) -> list[Any]:
    """What a loop goes through at most."""
    return list(itertools.islice(items, MAX_ITEMS))


_ENVIRONMENT = _environment()


def check_template(text: str, sample: Mapping[str, Any] = PACKAGE_SAMPLE) -> None:
    """Check that a template can be used.

    Args:
        text: The template.
        sample: Values of the kind that it will be given: `PACKAGE_SAMPLE` or `NODE_SAMPLE`.

    Raises:
        InvalidInput: It cannot; the message says why.
    """
    unknown = sorted(find_undeclared_variables(_tree(text)) - sample.keys())
    if unknown:
        raise InvalidInput(f"There is no value {', '.join(unknown)}; there are: {', '.join(sample)}.")
    render(text, sample)


def render(text: str, values: Mapping[str, Any]) -> str:
    """Fill a template in, at most `MAX_OUTPUT` characters, without control characters but line ends and tabs.

    Args:
        text: The template.
        values: As in `PACKAGE_SAMPLE` or `NODE_SAMPLE`. Long values are cut; a value that is not there is empty.

    Raises:
        InvalidInput: The template cannot be used, or makes too long a text; the message says why.
    """
    parts, length = [], 0
    template = _compiled(text)
    try:
        for part in template.generate(_bounded(values)):
            parts.append(part)
            length += len(part)
            if length > MAX_OUTPUT:
                raise InvalidInput(f"The template makes a text of more than {MAX_OUTPUT} characters.")
    except _FAULTS as exc:
        raise _fault(exc) from exc
    return "".join(
        character
        for character in "".join(parts)
        if character in "\n\t" or unicodedata.category(character) not in {"Cc", "Cs"}
    ).strip()


def render_line(text: str, values: Mapping[str, Any]) -> str:
    """Fill in a template of a name: as `render`, in one line.

    Raises:
        InvalidInput: As for `render`.
    """
    return " ".join(render(text, values).split())


@lru_cache(maxsize=256)
def _compiled(text: str) -> jinja2.Template:
    tree = _tree(text)
    try:
        return jinja2.Template.from_code(
            _ENVIRONMENT, _ENVIRONMENT.compile(tree), dict(_ENVIRONMENT.globals), None
        )
    except _FAULTS as exc:
        raise _fault(exc) from exc


def _tree(text: str) -> nodes.Template:
    """A template's syntax, if it only does what it may."""
    if len(text) > MAX_TEMPLATE:
        raise InvalidInput(f"The template is longer than {MAX_TEMPLATE} characters.")
    try:
        tree = _ENVIRONMENT.parse(text)
    except _FAULTS as exc:
        raise _fault(exc) from exc
    for node, depth, loops in list(_walk(tree)):
        if depth > _MAX_DEPTH:
            raise InvalidInput("The template is nested too deep.")
        if not isinstance(node, _ALLOWED):
            raise InvalidInput(
                f"Line {node.lineno}: a template shows values, with filters, if and one for; it cannot contain "
                f"{_named(node)}."
            )
        if isinstance(node, nodes.For) and (loops or node.recursive or node.else_):
            raise InvalidInput(
                f"Line {node.lineno}: a loop stands alone: not in another, not recursive, no else."
            )
        if isinstance(node, nodes.Filter) and node.name not in _FILTERS:
            raise InvalidInput(f"There is no filter {node.name}; there are: {', '.join(_FILTERS)}.")
        if isinstance(node, nodes.Test) and node.name not in _TESTS:
            raise InvalidInput(f"There is no test {node.name}; there are: {', '.join(_TESTS)}.")
        if isinstance(node, nodes.Name) and node.name == "self":
            raise InvalidInput("There is no value self.")
        if isinstance(node, nodes.For):
            node.iter = nodes.Filter(node.iter, _LIMITED, [], [], None, None, lineno=node.lineno)
    tree.set_environment(_ENVIRONMENT)
    return tree


def _walk(tree: nodes.Node) -> Iterator[tuple[nodes.Node, int, int]]:
    """Every node, how deep it is, and in how many loops."""
    waiting = [(tree, 0, 0)]
    while waiting:
        node, depth, loops = waiting.pop()
        yield node, depth, loops
        inner = loops + isinstance(node, nodes.For)
        waiting += [(child, depth + 1, inner) for child in node.iter_child_nodes()]


def _named(node: nodes.Node) -> str:
    """How people call what they wrote."""
    words = {nodes.Mul: "*", nodes.Pow: "**", nodes.Mod: "%", nodes.Call: "calls", nodes.Assign: "set"}
    return words.get(type(node), type(node).__name__.lower())


def _fault(error: BaseException) -> InvalidInput:
    line = getattr(error, "lineno", None)
    said = str(error).strip() or type(error).__name__
    return InvalidInput(f"Line {line}: {said}" if line else f"The template cannot be used: {said[:300]}")


def _bounded(value: Any, depth: int = 0) -> Any:
    """A value from a package, cut so that no template can make much of it."""
    if isinstance(value, str):
        return value[:MAX_TEXT]
    if depth >= _MAX_DEPTH:
        return None
    if isinstance(value, Mapping):
        return {str(name): _bounded(value[name], depth + 1) for name in list(value)[:MAX_ITEMS]}
    if isinstance(value, Sequence):
        return [_bounded(item, depth + 1) for item in value[:MAX_ITEMS]]
    return value if isinstance(value, bool | int | float) else None
