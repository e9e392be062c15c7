"""The table of options. The spellings are those of the April 2024 document and of today's llama-server."""

from .groups.cache import CACHE
from .groups.chat import CHAT
from .groups.compute import COMPUTE
from .groups.context import CONTEXT
from .groups.limits import LIMITS
from .groups.logs import LOGS
from .groups.model import MODEL
from .groups.placement import PLACEMENT
from .groups.sampling import SAMPLING
from .groups.serving import SERVING
from .option import Option

GROUPS: dict[str, tuple[Option, ...]] = {
    "model": MODEL,
    "chat": CHAT,
    "fields that requests leave out": SAMPLING,
    "context and scheduling": CONTEXT,
    "cache": CACHE,
    "compute": COMPUTE,
    "placement on devices": PLACEMENT,
    "serving": SERVING,
    "limits": LIMITS,
    "logs": LOGS,
}
OPTIONS = tuple(option for group in GROUPS.values() for option in group)
