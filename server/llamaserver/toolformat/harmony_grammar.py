"""The grammar of an answer in the channels of gpt-oss."""

from collections.abc import Mapping

from .rules import Rules, one_of, quoted


def harmony_grammar(rules: Rules, arguments: Mapping[str, str], required: bool, content: str) -> str:
    """Lark text: words before the last message, and the last message, which is the answer or a call.

    A thought can come before it, whose end has been written.
    """
    start, channel, constrain, message, end = (
        rules.mark(mark) for mark in ("<|start|>", "<|channel|>", "<|constrain|>", "<|message|>", "<|end|>")
    )
    form = f'(SPACE? {constrain}? "json")? {message}'
    rules.add("thought", f'{channel} /analysis|commentary/ {message} TEXT {end} {start} "assistant"')
    calls = [
        rules.add(f"call_{i}", f"({_after(channel, name)} | {_before(channel, name)}) {form} {value}")
        for i, (name, value) in enumerate(arguments.items())
    ]
    final = f'{channel} "final" {form if content else message} {content or "TEXT"}'
    rules.add("start", f'({start} "assistant")? thought* {one_of(*calls, *([] if required else [final]))}')
    return rules.text()


def _after(channel: str, name: str) -> str:
    return f"{channel} {quoted(f'commentary to=functions.{name}')}"


def _before(channel: str, name: str) -> str:
    return f'{quoted(f" to=functions.{name}")} {channel} "commentary"'
