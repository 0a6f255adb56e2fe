"""Reads RSQL filters, as Jamf Pro's lists take them."""

import re
from collections.abc import Callable, Mapping
from typing import Any

_TOKEN = re.compile(
    r'\s*(?:(?P<op>==|!=|=in=|=out=)|(?P<p>[();,])|"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<word>[^\s();,="!]+))'
)
Test = Callable[[Mapping[str, Any]], bool]


class FilterInvalid(ValueError):
    """The filter cannot be read."""


def parse(text: str, fields: set[str]) -> Test:
    """A test of records. `;` is and, `,` is or, `*` in an unescaped value is a wildcard."""
    tokens: list[tuple[str, str]] = []
    position = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None or match.end() == position:
            raise FilterInvalid(text)
        tokens.append((match.lastgroup or "", match[match.lastgroup or 0]))
        position = match.end()
    reader = _Reader(tokens, fields)
    test = reader.either()
    if reader.tokens:
        raise FilterInvalid(text)
    return test


class _Reader:
    def __init__(self, tokens: list[tuple[str, str]], fields: set[str]) -> None:
        self.tokens, self._fields = tokens, fields

    def _take(self, kind: str, value: str | None = None) -> str:
        if not self.tokens or self.tokens[0][0] != kind or value not in {None, self.tokens[0][1]}:
            raise FilterInvalid(str(self.tokens[:1]))
        return self.tokens.pop(0)[1]

    def either(self) -> Test:
        tests = [self.both()]
        while self.tokens[:1] == [("p", ",")]:
            self.tokens.pop(0)
            tests.append(self.both())
        return lambda record: any(test(record) for test in tests)

    def both(self) -> Test:
        tests = [self.one()]
        while self.tokens[:1] == [("p", ";")]:
            self.tokens.pop(0)
            tests.append(self.one())
        return lambda record: all(test(record) for test in tests)

    def one(self) -> Test:
        if self.tokens[:1] == [("p", "(")]:
            self.tokens.pop(0)
            test = self.either()
            self._take("p", ")")
            return test
        name = self._take("word")
        if name not in self._fields:
            raise FilterInvalid(name)
        operator = self._take("op")
        if operator in {"=in=", "=out="}:
            self._take("p", "(")
            patterns = [self._value()]
            while self.tokens[:1] == [("p", ",")]:
                self.tokens.pop(0)
                patterns.append(self._value())
            self._take("p", ")")
            wanted = operator == "=in="
        else:
            patterns, wanted = [self._value()], operator == "=="
        return lambda record: any(p.fullmatch(str(record.get(name, ""))) for p in patterns) is wanted

    def _value(self) -> re.Pattern[str]:
        if not self.tokens or self.tokens[0][0] not in {"quoted", "word"}:
            raise FilterInvalid("a value")
        _, text = self.tokens.pop(0)
        pattern, escaped = "", False
        for char in text:
            if char == "\\" and not escaped:
                escaped = True
                continue
            pattern += ".*" if char == "*" and not escaped else re.escape(char)
            escaped = False
        return re.compile(pattern, re.IGNORECASE | re.DOTALL)
