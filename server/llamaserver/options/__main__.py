"""Print docs/reference/options.md: `python -m llamaserver.options > docs/reference/options.md`."""

from .page import markdown

print(markdown(), end="")
