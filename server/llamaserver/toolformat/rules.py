"""Rules of a Lark grammar as llguidance reads it, collected while they are written.

See https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md. Its lexer is greedy: free text ends where a rule
of the kind `[lazy]` finds its mark, or at a control token, which no text matches.
"""

import json
import re

from ..interfaces.backend import Vocab
from .marks import trigger

_TEXT = "TEXT: /(?s:.*)/"
_SPACE = "SPACE: /[ \\t\\r\\n]{1,8}/"
_ID = "ID: /[A-Za-z0-9_.-]{1,64}/"


class Rules:
    """The rules of one grammar. Expressions are texts: what a rule has on its right side.

    `weakened` collects the keywords of schemas that the rules do not enforce.
    """

    def __init__(self, vocab: Vocab, weakened: set[str]) -> None:
        self.weakened = weakened
        self._vocab = vocab
        self._rules: dict[str, str] = {}  # name to right side, in order
        self._names: dict[str, str] = {}  # right side to name, of rules that have no name of their own

    def text(self) -> str:
        """The grammar. Its first rule must be `start`."""
        start = self._rules["start"]
        others = [f"{name}: {right}" for name, right in self._rules.items() if name != "start"]
        return "\n".join([f"start: {start}", *others, _TEXT, _SPACE, _ID]) + "\n"

    def add(self, name: str, *ways: str) -> str:
        """A rule with alternatives."""
        self._rules[name] = " | ".join(ways)
        return name

    def named(self, right: str, kind: str = "", prefix: str = "r") -> str:
        """A rule without a name of its own: one for each right side."""
        name = self._names.get(right + kind)
        if name is None:
            name = self._names[right + kind] = f"{prefix}_{len(self._names)}"
            self._rules[name + kind] = right
        return name

    def mark(self, mark: str) -> str:
        """A mark, whose control tokens are tokens. What ends an answer is left out: the end stands for it."""
        return " ".join(self._pieces(mark))

    def free_until(self, mark: str) -> str:
        """Any text, and the mark that ends it."""
        first, *rest = self._pieces(mark) or [""]
        if not first.startswith('"'):
            return " ".join(["TEXT", first, *rest]).strip()
        return " ".join([self.named(f"TEXT {first}", "[lazy]"), *rest])

    def opening(self, mark: str) -> str:
        """Any text, and a mark after it that is recognised by its trigger."""
        first, *rest = self._pieces(mark) or [""]
        if not first.startswith('"'):
            return " ".join(["TEXT", first, *rest]).strip()
        text = json.loads(first)
        known = trigger(text)
        after = [quoted(left)] if (left := text[len(known) :]) else []
        return " ".join([self.named(f"TEXT {quoted(known)}", "[lazy]"), *after, *rest])

    def tokens(self, marks: list[str]) -> set[str]:
        """The control tokens in some marks."""
        return {piece for mark in marks for piece in self._pieces(mark) if piece.startswith("<")}

    def _pieces(self, mark: str) -> list[str]:
        vocab = self._vocab
        ids = vocab.tokenize(mark, add_special=False, parse_special=True)
        control = {vocab.special_piece(one).decode("utf-8", "replace"): one for one in ids if not vocab.piece(one)}
        control.pop("", None)
        if not control:
            return [quoted(mark)] if mark else []
        pieces = []
        for piece in re.split("(" + "|".join(map(re.escape, control)) + ")", mark):
            if piece in control:
                if control[piece] not in vocab.eog:
                    pieces.append(f"<[{control[piece]}]>")
                elif pieces:
                    break
            elif piece:
                pieces.append(quoted(piece))
        return pieces


def quoted(text: str) -> str:
    """A text as a literal of the grammar."""
    return json.dumps(text, ensure_ascii=False)


def one_of(*ways: str) -> str:
    """A group of alternatives."""
    return ways[0] if len(ways) == 1 else "(" + " | ".join(ways) + ")"
