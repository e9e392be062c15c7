"""A folder of downloads that several servers share. Records the users of the files, and removes unused files.

The file `KEY/.owners/OWNER` says that the spec of OWNER names the source of the files in KEY. Every pod touches
its file `.users/OWNER.HOST`, which lists the KEYs that the pod uses. All ages are measured by the file system's
clock.
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
    """NAMESPACE/NAME as a file name without dots. The host's name follows the first dot."""
    return quote(owner, safe="").replace(".", "%2E")


@dataclass(frozen=True, slots=True)
class Claim:
    """The use of the folder by one pod of `owner`."""

    folder: Path
    owner: str
    keys: tuple[str, ...]
    prune_after: float = 600.0  # seconds without a touch until the pod counts as gone

    def name(self) -> None:
        """Record the owner at each key. Call this before a download to the key's folder."""
        for key in self.keys:
            owners = self.folder / key / ".owners"
            owners.mkdir(parents=True, exist_ok=True)
            (owners / escaped(self.owner)).touch()

    def use(self) -> float:
        """Record that this pod uses its keys now. Returns the file system's time."""
        users = self.folder / ".users"
        users.mkdir(parents=True, exist_ok=True)
        mine = users / f"{escaped(self.owner)}.{socket.gethostname()}"
        text = json.dumps(self.keys)
        if mine.exists() and mine.read_text() == text:
            mine.touch()  # works on a full disk, too
        else:
            files.write_atomically(mine, [text.encode()], durable=False)
        for key in self.keys:
            owners = self.folder / key / ".owners"
            if owners.is_dir():  # only a downloaded folder gets owners, so pruning removes no other folder
                (owners / escaped(self.owner)).touch()
        return mine.stat().st_mtime

    def prune(self) -> list[str]:
        """Record the use. Remove folders that this owner named before and none of its pods uses. Returns the keys."""
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
        """Remove this owner from a key that it no longer uses. True if no other owner is left."""
        marker = owners / escaped(self.owner)
        with suppress(FileNotFoundError):  # another pod of the owner does the same
            if marker.exists():
                if now - marker.stat().st_mtime <= self.prune_after:
                    return False
                marker.unlink()
                return not any(owners.iterdir())
            # There is no owner. A pruner may have ended after it removed the last marker and before it removed the
            # folder.
            return not any(owners.iterdir()) and now - owners.stat().st_mtime > self.prune_after
        return False


def _remove(folder: Path) -> bool:
    """Remove a key's folder, unless another owner has named it. A rename comes first, so no reader sees a part."""
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
    """Record the use until cancelled. With `prune`, remove the folders that the owner no longer names."""
    import asyncio  # imported here: the import takes half the time of `llamaserver fetch` without downloads

    while True:
        try:
            await asyncio.to_thread(claim.prune if prune else claim.use)
        except (OSError, ValueError) as error:
            _log.warning("cannot update the records of use in %s: %s", claim.folder, error)
        await asyncio.sleep(min(_EVERY, claim.prune_after / 4))
