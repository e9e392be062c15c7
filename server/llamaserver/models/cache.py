"""A folder of downloads that several servers share: which server uses which files, and removing unused ones.

`KEY/.owners/OWNER` says that the spec of OWNER names the source whose files lie in KEY. `.users/OWNER.HOST`,
touched by every pod, lists the KEYs that the pod uses. All ages are taken by the file system's clock.
"""

import json
import logging
import shutil
import socket
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from .. import files

_log = logging.getLogger(__name__)
_EVERY = 30.0  # seconds between two touches of a pod's file
_TRASH = ".trash-"


def escaped(owner: str) -> str:
    """NAMESPACE/NAME as a file name without dots: what follows the first one is the host's."""
    return quote(owner, safe="").replace(".", "%2E")


@dataclass(frozen=True, slots=True)
class Claim:
    """What one pod of `owner` uses of the folder."""

    folder: Path
    owner: str
    keys: tuple[str, ...]
    prune_after: float = 600.0  # seconds without a touch after which a pod counts as gone

    def name(self) -> None:
        """Record the owner at each key, before anything is downloaded there."""
        for key in self.keys:
            owners = self.folder / key / ".owners"
            owners.mkdir(parents=True, exist_ok=True)
            (owners / escaped(self.owner)).touch()

    def use(self) -> float:
        """Record that this pod uses its keys now; returns the file system's time."""
        users = self.folder / ".users"
        users.mkdir(parents=True, exist_ok=True)
        mine = users / f"{escaped(self.owner)}.{socket.gethostname()}"
        text = json.dumps(self.keys)
        if mine.exists() and mine.read_text() == text:
            mine.touch()  # which works on a full disk, too
        else:
            files.write_atomically(mine, [text.encode()], durable=False)
        for key in self.keys:
            owners = self.folder / key / ".owners"
            if owners.is_dir():  # a folder that nobody downloaded must not become one that is pruned
                (owners / escaped(self.owner)).touch()
        return mine.stat().st_mtime

    def prune(self) -> list[str]:
        """Record the use, and remove what this owner named before and none of its pods uses. Returns the keys."""
        now = self.use()
        used = self._used(now)
        removed = []
        for owners in list(self.folder.glob("*/.owners")):
            folder = owners.parent
            if folder.name not in used and self._dropped(owners, now) and _remove(folder):
                removed.append(folder.name)
        for trash in list(self.folder.glob(f"{_TRASH}*")):
            with suppress(FileNotFoundError):
                if now - trash.stat().st_ctime > self.prune_after:  # the process that renamed it has ended
                    shutil.rmtree(trash, ignore_errors=True)
        return removed

    def _used(self, now: float) -> set[str]:
        used = set(self.keys)
        for path in list((self.folder / ".users").glob(f"{escaped(self.owner)}.*")):
            with suppress(FileNotFoundError):
                if now - path.stat().st_mtime <= self.prune_after:
                    used.update(json.loads(path.read_text()))
                else:
                    path.unlink()
        return used

    def _dropped(self, owners: Path, now: float) -> bool:
        """Remove this owner from a key that it no longer uses; True if no other owner is left."""
        marker = owners / escaped(self.owner)
        with suppress(FileNotFoundError):  # another pod of the owner does the same
            if marker.exists():
                if now - marker.stat().st_mtime <= self.prune_after:
                    return False
                marker.unlink()
                return not any(owners.iterdir())
            # no owner: a pruner may have ended after the last marker and before the folder
            return not any(owners.iterdir()) and now - owners.stat().st_mtime > self.prune_after
        return False


def _remove(folder: Path) -> bool:
    """Remove a key's folder, unless another owner named it meanwhile; renamed first, so that no reader sees a part."""
    trash = folder.with_name(f"{_TRASH}{uuid.uuid4().hex}")
    try:
        folder.rename(trash)
        if any((trash / ".owners").iterdir()):
            trash.rename(folder)
            return False
    except FileNotFoundError:
        return False  # another process was faster
    except OSError as error:
        _log.warning("cannot remove %s: %s", folder, error)
        return False
    shutil.rmtree(trash, ignore_errors=True)
    _log.info("removed %s: no server uses it any more", folder)
    return True


async def keep(claim: Claim, *, prune: bool) -> None:
    """Record the use until cancelled. With `prune`, remove what the owner no longer names."""
    import asyncio  # costs `llamaserver fetch` half its time, where there is nothing to fetch

    while True:
        try:
            await asyncio.to_thread(claim.prune if prune else claim.use)
        except (OSError, ValueError) as error:
            _log.warning("cannot update the records of use in %s: %s", claim.folder, error)
        await asyncio.sleep(min(_EVERY, claim.prune_after / 4))
