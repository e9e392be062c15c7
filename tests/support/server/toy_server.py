"""A server process with the backend without weights: `python -m tests.support.server.toy_server FOLDER OPTIONS...`.

Files in FOLDER make its decodes fail or hang, as long as they are there: `fatal` and `hang`. A file holds the smallest
number of rows for which it counts.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

from llamaserver import __main__, startup
from llamaserver.interfaces.backend import Backend, Batch, Status

from tests.support.engine.toy import ToyBackend


class FaultyBackend(ToyBackend):
    """Does what the files say."""

    def __init__(self, folder: Path, n_slots: int, slot_ctx: int) -> None:
        super().__init__(n_ctx=n_slots * slot_ctx, n_seq_max=n_slots)
        self._folder = folder

    def decode(self, batch: Batch, *, embeddings: bool = False) -> Status:
        """Evaluate, unless a file is there."""
        while self._has("hang", batch):
            time.sleep(0.01)
        if self._has("fatal", batch):
            return Status.FATAL
        self.history.clear()  # nobody reads it here
        return super().decode(batch, embeddings=embeddings)

    def _has(self, fault: str, batch: Batch) -> bool:
        file = self._folder / fault
        try:
            return len(batch) >= int(file.read_text() or 1)
        except FileNotFoundError:
            return False


def main() -> None:
    """Run the server."""
    folder = Path(sys.argv.pop(1))

    def load(self: startup.Startup, progress: Callable[[float], bool]) -> Backend:
        settings = self.engine.settings
        return FaultyBackend(folder, settings.n_slots, settings.slot_ctx)

    startup.Startup._load = load  # type: ignore[method-assign]
    __main__.main()


if __name__ == "__main__":
    main()
