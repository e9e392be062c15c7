"""Foreign text as it may be shown. Pure."""

import json


def one_line(text: str) -> str:
    """The text with every character that does not print as its JSON escape.

    Messages of pods and of the API server can contain such characters. They could end a line and begin a forged one,
    or control the terminal that shows them.
    """
    return text if text.isprintable() else "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)
