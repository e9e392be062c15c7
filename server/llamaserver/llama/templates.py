"""The chat formats that llama.cpp knows by name, for models without their own template."""

import ctypes
from collections.abc import Sequence

import llama_cpp.llama_cpp as lib


class LlamaTemplates:
    """Implements BuiltinTemplates."""

    def __init__(self) -> None:
        self.names = _names()

    def render(self, name: str, messages: Sequence[tuple[str, str]], *, add_generation_prompt: bool) -> str:
        """Render (role, content) pairs. Raises ValueError for a name that is not in `names`."""
        encoded = [(role.encode(), content.encode("utf-8", "replace")) for role, content in messages]
        array = (lib.llama_chat_message * len(encoded))(*[lib.llama_chat_message(r, c) for r, c in encoded])
        capacity = sum(len(role) + len(content) + 64 for role, content in encoded) + 1024
        while True:
            buffer = ctypes.create_string_buffer(capacity)
            length = lib.llama_chat_apply_template(
                name.encode(), array, len(encoded), add_generation_prompt, buffer, capacity
            )
            if length < 0:
                raise ValueError(f"llama.cpp has no chat template {name!r}")
            if length <= capacity:
                return buffer.raw[:length].decode("utf-8", "replace")
            capacity = length


def _names() -> frozenset[str]:
    count = lib.llama_chat_builtin_templates(None, 0)
    names = (ctypes.c_char_p * count)()
    lib.llama_chat_builtin_templates(names, count)
    return frozenset(name.decode() for name in names if name)
