r"""A Lark grammar of a text as a grammar of a JSON string with that text: most models write arguments as JSON.

Each character is a terminal of its own, because llguidance's lexer looks ahead by one byte only, and `\n` has two. So
the terminals of the text are rules here. Pure.
"""

import json
import re
from collections.abc import Callable, Iterator
from functools import lru_cache

from .json_pattern import NO_LINE_END, Node, tree_of
from .rules import GrammarError

_MOST = 20_000  # characters of a grammar
_TOKEN = re.compile(
    r"""(?P<space>[ \t\r]+|(?://|\#)[^\n]*|->[ ]*\w+)|(?P<newline>\n)|(?P<import>%import[ ]common[^\n]*)
    |(?P<string>"(?:\\.|[^"\\\n])*")|(?P<regex>/(?:\\.|[^/\\\n])+/)(?![imslux])|(?P<head>[?!]?[A-Za-z_]\w*)(?=[ \t]*:)
    |(?P<name>[A-Za-z_]\w*)|(?P<times>~[ ]*\d{1,4}(?:[ ]*\.\.[ ]*\d{1,4})?)|(?P<optional>[\[\]])|(?P<sign>[|()*+?:])""",
    re.VERBOSE,
)
_COMMON = {  # of Lark's library
    "LF": r"\n",
    "CR": r"\r",
    "NEWLINE": r"(\r?\n)+",
    "WS": r"[ \t\f\r\n]+",
    "WS_INLINE": r"[ \t]+",
    "DIGIT": "[0-9]",
    "INT": "[0-9]+",
    "LETTER": "[A-Za-z]",
    "WORD": "[A-Za-z]+",
    "CNAME": "[A-Za-z_][A-Za-z0-9_]*",
}
_ESCAPED = '"\\\b\f\n\r\t'  # what JSON writes with a backslash and a letter. Other control characters are no text
_OTHERS = "".join(map(chr, [*range(0x20, 0x22), *range(0x23, 0x5C), *range(0x5D, 0x2000), 0x4E2D, 0x1F600]))
_SPACES = " \\u00a0\\u1680\\u2000-\\u200a\\u202f\\u205f\\u3000"  # of Unicode's category Zs
_NOT_ESCAPED = r'[^"\\\x{0}-\x{1f}]'


def json_text(definition: str) -> str:
    """The Lark expression of a JSON string whose text matches the grammar.

    Raises GrammarError for what is no grammar, and for what cannot be expressed (%ignore, flags, look-around).
    """
    if len(definition) > _MOST:
        raise GrammarError(f"longer than {_MOST} characters")
    lines = "".join(_translated(definition))
    if not re.search(r"^r_start:", lines, re.MULTILINE):
        raise GrammarError("has no rule with the name start")
    return '"\\"" %lark {\nstart: r_start\n' + lines + '\n} "\\""'


def _translated(definition: str) -> Iterator[str]:
    at = 0
    while at < len(definition):
        token = _TOKEN.match(definition, at)
        if token is None:
            raise GrammarError(f"not supported: {definition[at : at + 20]!r}")
        at = token.end()
        yield _WRITERS[token.lastgroup or ""](token[0])


def _name(text: str) -> str:
    """The name of a rule. Terminals become rules. Names that differ in their case only stay different."""
    text = text.lstrip("?!")
    return f"t_{text.lower()}" if text.strip("_")[:1].isupper() else f"r_{text}"


def _imported(line: str) -> str:
    names = re.findall(r"[A-Z_]+", line)
    if "->" in line or not names or not set(names) <= _COMMON.keys():
        raise GrammarError(f"not supported: {line[:60]!r}")
    return "\n".join(f"{_name(name)}: {_regex(f'/{_COMMON[name]}/')}" for name in names)


def _string(text: str) -> str:
    try:
        value = json.loads(text)
    except ValueError:
        raise GrammarError(f"a string cannot be read: {text[:40]}") from None
    return "(" + (" ".join(map(_literal, value)) or '""') + ")"


def _times(text: str) -> str:
    return "{" + re.sub(r"[~ ]", "", text).replace("..", ",") + "}"


def _regex(text: str) -> str:
    """The expression of a regular expression between slashes."""
    pattern = text[1:-1].replace("\\/", "/")
    return f"({_written(tree_of(pattern))})"


def _written(node: Node) -> str:
    parts = [_written(part) for part in node.parts]
    match node.kind:
        case "text":
            return _one(r"[^\x{a}]" if node.text == NO_LINE_END else node.text)
        case "choice":
            return "(" + " | ".join(parts) + ")"
        case "sequence" if node.text in ("", "?:"):
            return f"({' '.join(parts)})" if parts else '""'
        case "repeat":
            return parts[0] + node.text
    raise GrammarError("an expression has flags or anchors")


def _literal(character: str) -> str:
    return json.dumps(_escaped(character), ensure_ascii=False)


@lru_cache(1024)
def _one(expression: str) -> str:
    """One character of a set, as JSON writes it."""
    known = expression.replace(r"\p{Zs}", _SPACES)
    if "\\p" in known.lower() or expression.count("[") > 1:
        raise GrammarError("an expression has a class that is not supported")
    python = re.compile(re.sub(r"\\x\{([0-9a-f]+)\}", lambda digits: f"\\U{int(digits[1], 16):08x}", known))
    ways = [re.escape(_escaped(one)) for one in _ESCAPED if python.fullmatch(one)]
    if python.search(_OTHERS):
        ways.append(f"[{expression}&&{_NOT_ESCAPED}]")
    if not ways:
        raise GrammarError("an expression has a set that is empty")
    return f"/({'|'.join(ways)})/"


def _escaped(character: str) -> str:
    """A character of a JSON string."""
    return json.dumps(character, ensure_ascii=False)[1:-1]


_WRITERS: dict[str, Callable[[str], str]] = {
    "space": lambda text: " ",
    "newline": lambda text: "\n",
    "import": _imported,
    "string": _string,
    "regex": _regex,
    "head": _name,
    "name": lambda text: f" {_name(text)} ",
    "times": _times,
    "optional": lambda text: "(" if text == "[" else ")?",
    "sign": lambda text: text,
}
