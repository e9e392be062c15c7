"""Errors of the canonical request, told with the names of the dialect in which a client wrote it."""

import re
from collections.abc import Mapping

from ..errors import InvalidRequest

_NAMED = re.compile(r"Field '([^']{1,512})'")
_ENDS = re.compile(r"[.\[]")


class FieldNames:
    """The client's names of fields, by those of the canonical request. A name covers what is inside it, too."""

    def __init__(self, names: Mapping[str, str]) -> None:
        self._names = names

    def of(self, field: str) -> str:
        """The client's name of a field. What is not listed has the same name in both."""
        ends = [match.start() for match in _ENDS.finditer(field)]
        for end in [len(field), *reversed(ends)]:
            if (name := self._names.get(field[:end])) is not None:
                return name + field[end:]
        return field

    def renamed(self, error: InvalidRequest) -> InvalidRequest:
        """The same error with the client's names in its message and its field."""
        message = _NAMED.sub(lambda match: f"Field '{self.of(match[1])}'", error.message)
        return type(error)(message, field=None if error.field is None else self.of(error.field), **error.extra)
