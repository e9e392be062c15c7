"""The downloads of `llamaserver fetch`, and the management port beside them."""

import argparse
import asyncio
import logging
import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from aiohttp import web
from prometheus_client import CollectorRegistry, Gauge, generate_latest

from .. import termination
from ..errors import DownloadError
from . import cache, download, http_client, transfer
from .spec import Wanted, keys, wanted

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Progress:
    """The state of the command. Sizes are of all files together, 0 while a size is not known."""

    file: str = ""
    sizes: dict[str, int] = field(default_factory=dict)  # announced sizes, by path
    have: dict[str, int] = field(default_factory=dict)
    waiting: bool = False
    error: str = ""

    def status(self) -> dict[str, object]:
        """The body of /status."""
        total = 0 if 0 in self.sizes.values() else sum(self.sizes.values())
        return {
            "state": "downloading",
            "download": {"file": self.file, "bytes": sum(self.have.values()), "total_bytes": total},
            "waiting_for_lock": self.waiting,
            "error": self.error,
        }


async def fetch_all(files: Sequence[Wanted], folder: Path, progress: Progress) -> None:
    """Fetch one file after the other."""
    progress.sizes = {file.path: 0 for file in files}
    if len(files) > 1:  # the download of a single file reports the size itself
        async with http_client.session(guarded=files[0].source.guarded) as client:
            for file in files:
                if not (folder / file.path).exists():
                    progress.sizes[file.path] = await transfer.size(client, file.source)
    for file in files:
        progress.file = file.path

        def received(have: int, total: int, path: str = file.path) -> None:
            progress.have[path], progress.sizes[path] = have, total
            progress.error = ""

        def waits(waiting: bool) -> None:
            progress.waiting = waiting

        def fails(why: str) -> None:
            progress.error = why

        target = await download.fetch(file.source, folder / file.path, received, waits, fails, replace=True)
        received(target.stat().st_size, target.stat().st_size)


def management_app(progress: Progress) -> web.Application:
    """The paths of a server's management port, for the time before the server starts."""
    registry = CollectorRegistry()
    download_bytes = Gauge("llamaserver:download_bytes", "Bytes of the files received so far.", registry=registry)
    total_bytes = Gauge("llamaserver:download_total_bytes", "Bytes of all files, 0 if unknown.", registry=registry)
    waiting = Gauge("llamaserver:download_waiting", "1 while another process downloads the file.", registry=registry)

    async def livez(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_: web.Request) -> web.Response:
        return web.Response(text="downloading\n", status=503)

    async def status(_: web.Request) -> web.Response:
        return web.json_response(progress.status())

    async def metrics(_: web.Request) -> web.Response:
        now = progress.status()["download"]
        assert isinstance(now, dict)
        download_bytes.set(now["bytes"])
        total_bytes.set(now["total_bytes"])
        waiting.set(progress.waiting)
        headers = {"Content-Type": "text/plain; version=0.0.4"}
        return web.Response(body=generate_latest(registry), headers=headers)

    app = web.Application()
    for path, handler in {"/livez": livez, "/readyz": readyz, "/status": status, "/metrics": metrics}.items():
        app.router.add_get(path, handler)
    return app


async def run(args: argparse.Namespace, environ: Mapping[str, str]) -> None:
    """Fetch the files. Meanwhile, serve the management port and record the use of the folder."""
    files = [file for text in args.file for file in wanted(text, environ)]
    progress = Progress()
    runner = web.AppRunner(management_app(progress), access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    claim = keeping = None
    try:
        if args.management_port:
            await _listen(runner, args.management_host, args.management_port)
        if args.owner:
            claim = cache.Claim(args.models_dir, args.owner, keys(files))
            await asyncio.to_thread(_name, claim)
            keeping = asyncio.create_task(cache.keep(claim, prune=False))
        try:
            await fetch_all(files, args.models_dir, progress)
        except DownloadError as error:
            if error.reason != "DiskFull" or claim is None or not await asyncio.to_thread(_make_room, claim):
                raise
            await fetch_all(files, args.models_dir, progress)
    except DownloadError as error:
        progress.error = str(error)
        raise
    finally:
        if keeping:
            keeping.cancel()
        await runner.cleanup()


async def _listen(runner: web.AppRunner, host: str, port: int) -> None:
    try:
        await web.TCPSite(runner, host, port).start()
    except OSError as error:
        raise DownloadError(f"cannot listen on {host}:{port}: {error.strerror or error}", "BadSpec") from error


def _name(claim: cache.Claim) -> None:
    try:
        claim.name()
        claim.use()
    except OSError as error:
        raise transfer.cannot_write(claim.folder, error) from error


def _make_room(claim: cache.Claim) -> bool:
    """Remove folders that the owner no longer names and none of its pods uses. The server does so only after this."""
    try:
        return bool(claim.prune())
    except (OSError, ValueError) as error:
        _log.warning("cannot make room in %s: %s", claim.folder, error)
        return False


async def _until_signal(args: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Run until the end or a signal. Partial downloads stay, and the next start continues them."""
    task, caught = asyncio.create_task(run(args, environ)), []

    def stop(sig: signal.Signals) -> None:
        caught.append(sig)
        task.cancel()

    for sig in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(sig, stop, sig)
    try:
        await task
    except asyncio.CancelledError:
        _log.info("stopped by %s", caught[0].name)
        return 128 + caught[0]
    _log.info("all files are there")
    return 0


def main(args: argparse.Namespace) -> NoReturn:
    """Fetch the files. Does not return."""
    crash_log = termination.CrashLog(args.termination_log)
    crash_log.catch_crashes()
    crash_log.phase("download")
    code = asyncio.new_event_loop().run_until_complete(_exit_code(args, crash_log))
    logging.shutdown()
    # Exits without closing the loop and the interpreter. Both wait for threads, which may be reading 100 GB.
    os._exit(code)


async def _exit_code(args: argparse.Namespace, crash_log: termination.CrashLog) -> int:
    try:
        code = await _until_signal(args, os.environ)
        crash_log.clear()
    except DownloadError as error:
        _log.error("%s", error)
        termination.write(args.termination_log, error.reason, str(error))
        return 2 if error.reason == "BadSpec" else 1
    except Exception as error:
        _log.exception("failed")
        termination.write(args.termination_log, "DownloadFailed", f"{type(error).__name__}: {error}")
        return 1
    return code
