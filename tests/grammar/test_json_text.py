"""Lark grammars of texts as grammars of JSON strings."""

import json

import llguidance
import pytest
from llamaserver.grammar.json_text import json_text
from llamaserver.grammar.rules import GrammarError

# The grammar of Codex's tool for changes of files.
PATCH = r"""
start: begin_patch hunk+ end_patch
begin_patch: "*** Begin Patch" LF
end_patch: "*** End Patch" LF?

hunk: add_hunk | delete_hunk | update_hunk
add_hunk: "*** Add File: " filename LF add_line+
delete_hunk: "*** Delete File: " filename LF
update_hunk: "*** Update File: " filename LF change_move? change?

filename: /(.+)/
add_line: "+" /(.*)/ LF -> line

change_move: "*** Move to: " filename LF
change: (change_context | change_line)+ eof_line?
change_context: ("@@" | "@@ " /(.+)/) LF
change_line: ("+" | "-" | " ") /(.*)/ LF
eof_line: "*** End of File" LF

%import common.LF
"""
TOKENS = llguidance.LLTokenizer("byte")


def matches(definition: str, text: str) -> bool:
    grammar = llguidance.LLMatcher.grammar_from_lark(f"start: {json_text(definition)}")
    assert llguidance.LLMatcher.validate_grammar(grammar) == ""
    matcher = llguidance.LLMatcher(TOKENS, grammar, log_level=0)
    tokens = TOKENS.tokenize_str(json.dumps(text, ensure_ascii=False))
    return matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ('*** Begin Patch\n*** Add File: a.py\n+x = "1\\n"\n+\n+\té\n*** End Patch\n', True),
        ("*** Begin Patch\n*** Update File: b\n@@ def f():\n-a\n+b\n c\n*** End of File\n*** End Patch", True),
        ('*** Begin Patch\n*** Delete File: a "q"\n*** Add File: b\n+\n*** End Patch', True),
        ("*** Begin Patch\n*** End Patch", False),
        ("*** Begin Patch\n*** Add File: a\nx\n*** End Patch", False),
        ("Sure! *** Begin Patch", False),
    ],
)
def test_the_grammar_of_patches(text: str, fits: bool) -> None:
    assert matches(PATCH, text) is fits


@pytest.mark.parametrize(
    ("definition", "good", "bad"),
    [
        (r'start: /["\\\n]{2}/', '"\n', '"a'),
        (r'start: "\"" /[^a]+/ "\""', '"b\\\n"', '"a"'),
        ("start: A | a\nA: /x/\na: /y/", "y", "xy"),
        ("start: [WORD] INT ~ 2..3\n%import common (WORD, INT)", "ab12", "ab"),
        ('// a comment\n?start: (/a|b/ | "cd")* # more', "acdb", "c"),
        ('start: /a\\/b/ ""', "a/b", "a"),
        (r"start: /\d+(\.\d+)?/ /[^\d\s]/", "1.5x", "1.5 "),
        ("start: /é./", "é😀", "é\n"),
    ],
)
def test_texts(definition: str, good: str, bad: str) -> None:
    assert matches(definition, good)
    assert not matches(definition, bad)


@pytest.mark.parametrize(
    "definition",
    [
        "", "x: \"a\"", "start: \"a\"\n%ignore \" \"", "start: /a/i", "start: /(?=a)a/", "start: /a$/", "start: <tool>",
        "%import other.X", "%import common.UNKNOWN", r"start: /\p{L}/", "start: /(/", r'start: "\q"', "start: /[a/",
        "start: %json {}", "x" * 30_000,
    ],
)  # fmt: skip
def test_what_cannot_be_expressed(definition: str) -> None:
    with pytest.raises(GrammarError):
        json_text(definition)
