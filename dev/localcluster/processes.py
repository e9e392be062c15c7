"""Programs inside the sandbox: start, stop, freeze and look up by name."""

import os
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.support.polling import until

from .sandbox import Sandbox

# Writes the program's process id inside the sandbox. The shell stays its parent. With nsenter as the parent, a frozen
# program would freeze nsenter too. nsenter would not continue with it, and leave a zombie that counts as alive.
_LAUNCH = '"$@" & echo $! > "$0"; wait'


@dataclass(frozen=True)
class Processes:
    """The named programs of one sandbox. Their pid files and logs lie in the cluster's folder."""

    sandbox: Sandbox

    def log(self, name: str) -> Path:
        """The path of the program's output."""
        return self.sandbox.folder / "logs" / f"{name}.log"

    def _pid(self, name: str) -> str:
        file = self._pid_file(name)
        return file.read_text().strip() if file.exists() else ""

    def _pid_file(self, name: str) -> Path:
        return self.sandbox.folder / "pids" / f"{name}.pid"

    def start(
        self, name: str, command: list[str], *, network: bool = True, env: dict[str, str] | None = None, fd: int = -1
    ) -> None:
        """Start a program. It keeps running when this process ends. It inherits `fd`."""
        for file in (self.log(name), self._pid_file(name)):
            file.parent.mkdir(exist_ok=True)
        self._pid_file(name).unlink(missing_ok=True)
        launch = self.sandbox.enter(["sh", "-c", _LAUNCH, str(self._pid_file(name)), *command], network=network)
        with self.log(name).open("ab") as out:
            process = subprocess.Popen(
                launch,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=os.environ | (env or {}),
                pass_fds=() if fd < 0 else (fd,),
            )
        until(lambda: self._pid(name) or process.poll() is not None, f"{name} started", pause=0.005)

    def stop(self, name: str, *, signal: str = "TERM") -> None:
        """End a program and wait until it is gone."""
        self._kill(name, f'kill -{signal} "$pid"; while kill -0 "$pid" 2>/dev/null; do sleep 0.05; done')
        self._pid_file(name).unlink()

    def signal(self, name: str, signal: str) -> None:
        """Send a signal. STOP freezes a program, CONT continues it."""
        self._kill(name, f'kill -{signal} "$pid"')

    def running(self, name: str) -> bool:
        """Whether the program runs."""
        pid = self._pid(name)
        if not pid or self.sandbox.pid is None:
            return False
        return self.run(["kill", "-0", pid], check=False).returncode == 0

    def run(self, command: list[str], *, check: bool = True, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """Run a command inside and wait for it. It ends when this process ends."""
        inside = self.sandbox.enter(["setpriv", "--pdeathsig=KILL", *command])
        done = subprocess.run(
            inside, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout, check=False
        )
        if check and done.returncode != 0:
            raise RuntimeError(f"{shlex.join(command)}: status {done.returncode}: {done.stderr.strip()}")
        return done

    def _kill(self, name: str, script: str) -> None:
        self.run(["sh", "-c", f"pid={self._pid(name)}; {script}"])
