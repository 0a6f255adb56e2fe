"""Templates that admins write for webhooks: Jinja2, cut down to what cannot do harm.

Jinja2's sandbox keeps templates away from Python's insides, and bounds neither time nor memory: `"a" * 10**9`,
`"a".ljust(10**9)` or a string that doubles itself forty times fill the machine. So a template here is checked
before it is compiled: only the constructs and filters named below, no assignments, no calls but `range`, no
multiplication. What is left grows with the template and its data only; loops, filters, output and time have bounds.
"""

import contextvars
import json
import time
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from appliance.domain.event import Event
from appliance.domain.notify_errors import TemplateInvalid

from .bodies import Teller, standard

MAX_TEMPLATE = 16 * 1024  #: characters
MAX_OUTPUT = 256 * 1024  #: characters
MAX_ITEMS = 1000  #: of one loop, one range and one join
MAX_DEPTH = 2  #: loops inside loops
MAX_SECONDS = 2.0

_NODES = (
    nodes.Template, nodes.Output, nodes.TemplateData, nodes.Name, nodes.Const, nodes.Getattr, nodes.Getitem,
    nodes.Filter, nodes.Test, nodes.If, nodes.For, nodes.CondExpr, nodes.Compare, nodes.Operand, nodes.And,
    nodes.Or, nodes.Not, nodes.Concat, nodes.Add, nodes.Sub, nodes.Neg, nodes.List, nodes.Tuple, nodes.Dict,
    nodes.Pair, nodes.Slice, nodes.Call,
)  # fmt: skip
_FILTERS = ("tojson", "upper", "lower", "title", "capitalize", "trim", "length", "first", "last", "default", "d",
            "escape", "e", "string", "int", "join", "truncate", "items")  # fmt: skip
_TESTS = ("defined", "undefined", "none", "string", "number", "mapping", "sequence", "boolean", "true", "false",
          "in", "eq", "equalto", "==", "ne", "!=")  # fmt: skip

_deadline: contextvars.ContextVar[float] = contextvars.ContextVar("template_deadline", default=0.0)


def render(template: str, event: Event, teller: Teller, *, content_type: str) -> bytes:
    """What a template makes of an event, as UTF-8.

    The template sees `type`, `timestamp` and `data` of the standard body.

    Raises:
        TemplateInvalid: It uses what is not allowed, fails, makes too much, or no JSON where JSON is promised.
    """
    reset = _deadline.set(time.monotonic() + MAX_SECONDS)
    try:
        parts, length = [], 0
        for part in _compiled(template).generate(standard(event, teller)):
            length += len(part)
            if length > MAX_OUTPUT:
                raise TemplateInvalid(f"The template makes more than {MAX_OUTPUT} characters.")
            _check_time()
            parts.append(part)
    except (jinja2.TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as exc:
        raise TemplateInvalid(f"The template fails: {exc}") from exc
    finally:
        _deadline.reset(reset)
    text = "".join(parts)
    if content_type.partition(";")[0].strip().endswith("json"):
        try:
            json.loads(text)
        except (ValueError, RecursionError) as exc:
            raise TemplateInvalid(
                f"The template does not make JSON: {exc}. Write values as {{{{ value|tojson }}}}, or set another "
                "content type."
            ) from exc
    try:
        return text.encode()
    except UnicodeEncodeError as exc:
        raise TemplateInvalid("The template makes text that is not Unicode.") from exc


class _Environment(ImmutableSandboxedEnvironment):
    """The sandbox, with less in it."""

    intercepted_binops = frozenset({"*", "**", "/", "//", "%"})

    def call_binop(self, _context: Any, operator: str, _left: Any, _right: Any) -> Any:
        """Refuse; the check of the syntax has refused it before."""
        raise SecurityError(f'templates know no "{operator}"')

    def is_safe_callable(self, obj: Any) -> bool:
        """Only `range`."""
        return obj is _range

    def getattr(self, obj: Any, attribute: str) -> Any:
        """Look time over on the way."""
        _check_time()
        return super().getattr(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        """Look time over on the way."""
        _check_time()
        return super().getitem(obj, argument)


def _environment() -> _Environment:
    environment = _Environment(undefined=jinja2.StrictUndefined, autoescape=False)
    kept = {name: environment.filters[name] for name in _FILTERS}
    environment.filters = {name: _bounded(name, function) for name, function in kept.items()}
    environment.filters["bounded"] = lambda items: list(islice(items, MAX_ITEMS))
    environment.tests = {name: environment.tests[name] for name in _TESTS}
    environment.globals = {"range": _range}
    return environment


def _bounded(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that refuses long texts and takes no settings that make output grow."""

    def check(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        _check_time()
        for argument in arguments:
            if isinstance(argument, str) and len(argument) > MAX_OUTPUT:
                raise SecurityError(f"the filter {name} was given more than {MAX_OUTPUT} characters")
        if name == "join":
            first = next((index for index, item in enumerate(arguments) if not _is_jinja(item)), 0)
            cut = list(islice(arguments[first], MAX_ITEMS))
            return (*arguments[:first], cut, *arguments[first + 1 :])
        return arguments

    def bounded(*arguments: Any) -> Any:
        return function(*check(arguments))

    passed = getattr(
        function, "jinja_pass_arg", None
    )  # the filter wants the environment or the context first
    if passed is not None:
        bounded.jinja_pass_arg = passed  # type: ignore[attr-defined]
    return bounded


def _is_jinja(argument: Any) -> bool:
    return isinstance(argument, jinja2.Environment | jinja2.runtime.Context | nodes.EvalContext)


def _range(*bounds: int) -> Iterable[int]:
    found = range(*bounds)
    if len(found) > MAX_ITEMS:
        raise SecurityError(f"a range has at most {MAX_ITEMS} numbers")
    return found


def _check_time() -> None:
    if time.monotonic() > _deadline.get():
        raise SecurityError(f"it takes longer than {MAX_SECONDS:g} s")


def _compiled(template: str) -> jinja2.Template:
    if len(template) > MAX_TEMPLATE:
        raise TemplateInvalid(f"A template has at most {MAX_TEMPLATE} characters.")
    environment = _environment()
    try:
        tree = environment.parse(template)
        _check(tree, 0)
        return environment.from_string(tree)
    except jinja2.TemplateSyntaxError as exc:
        raise TemplateInvalid(f"The template is not valid: line {exc.lineno}: {exc.message}") from exc
    except (RecursionError, SyntaxError, ValueError, MemoryError) as exc:
        raise TemplateInvalid("The template is nested too deep, or has numbers that are too long.") from exc


def _check(node: nodes.Node, depth: int) -> None:
    if not isinstance(node, _NODES):
        raise _refusal(node, f'"{type(node).__name__.lower()}" is not allowed in templates')
    if isinstance(node, nodes.Call) and not (
        isinstance(node.node, nodes.Name) and node.node.name == "range" and not node.kwargs
    ):
        raise _refusal(node, "templates call nothing but range()")
    if isinstance(node, nodes.Filter):
        if node.name not in _FILTERS:
            raise _refusal(node, f"there is no filter {node.name}; filters are {', '.join(_FILTERS)}")
        if node.kwargs or node.dyn_args or node.dyn_kwargs or (node.name == "tojson" and node.args):
            raise _refusal(node, f"the filter {node.name} takes no such arguments")
    if isinstance(node, nodes.Test) and node.name not in _TESTS:
        raise _refusal(node, f"there is no test {node.name}")
    if isinstance(node, nodes.For):
        depth += 1
        if depth > MAX_DEPTH or node.recursive:
            raise _refusal(node, f"loops are nested at most {MAX_DEPTH} deep and not recursive")
    for child in node.iter_child_nodes():
        _check(child, depth)
    if isinstance(node, nodes.For):
        # Set here, behind the check: the name is not among the filters that a template may use.
        node.iter = nodes.Filter(
            node.iter, "bounded", [], [], None, None, lineno=node.lineno, environment=node.environment
        )


def _refusal(node: nodes.Node, reason: str) -> TemplateInvalid:
    return TemplateInvalid(f"The template is not valid: line {node.lineno}: {reason}.")


def check_template(template: str, samples: Iterable[Event], teller: Teller, *, content_type: str) -> None:
    """Try a template on events, so that its faults show when it is saved.

    Raises:
        TemplateInvalid: It cannot be used.
    """
    if not template.strip():
        raise TemplateInvalid("The format template needs a template.")
    for event in samples:
        render(template, event, teller, content_type=content_type)


def sample(at: int, type: str, subject: str, data: Mapping[str, Any]) -> Event:
    """An event that never happened."""
    return Event(seq=0, type=type, at=at, actor="system", subject=subject, data=data)
