"""The items of OpenAI's Responses API as messages of a chat."""

from typing import Any

from llamaserver.api.responses_input import MAX_ITEMS, Input


def read(*items: Any) -> list[dict[str, Any]]:
    conversation = Input()
    conversation.read(list(items), "input")
    return conversation.messages()


def thought(text: str) -> dict[str, Any]:
    return {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": text}]}


def test_thoughts_of_one_turn_are_lines_of_one() -> None:
    """Each was once joined with all before it."""
    texts = [f"{number} " + "x" * 1000 for number in range(MAX_ITEMS - 1)]
    [message] = read(*map(thought, texts), {"role": "assistant", "content": "Yes."})
    assert message["reasoning_content"] == "\n".join(texts)
    assert message["content"] == [{"type": "text", "text": "Yes."}]
