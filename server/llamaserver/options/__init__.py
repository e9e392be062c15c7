"""The options of the server, from the command line and the environment.

`table` lists them all, `llama_server` lists what else llama-server takes.
`reading` makes a Config of them, `page` the reference in docs/.

May import config, option_readers and errors.
"""

from .option import Option
from .page import markdown
from .reading import parse
from .table import OPTIONS

__all__ = ["OPTIONS", "Option", "markdown", "parse"]
