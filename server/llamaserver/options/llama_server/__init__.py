"""The arguments of llama-server that are no options here. Together with the table of options, they are all it has."""

from .argument import Argument, Kind
from .drafts import DRAFTS
from .general import GENERAL
from .serving import SERVING

ARGUMENTS: tuple[Argument, ...] = (*GENERAL, *SERVING, *DRAFTS)

__all__ = ["ARGUMENTS", "Argument", "Kind"]
