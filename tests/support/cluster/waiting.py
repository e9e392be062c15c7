"""What tools that wait see of an object: each of its states, and what kstatus says about it."""

import json
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from dev.localcluster import binaries
from dev.localcluster.kubectl import Object
from tests.support.cluster.llama import Llama, spec_of
from tests.support.polling import until

Verdict = tuple[str, str]  # InProgress, Current, Failed or Terminating; and the message


def verdicts(objects: Iterable[Object]) -> list[Verdict]:
    """What the library says of each."""
    text = "\n".join(map(json.dumps, objects))
    done = subprocess.run([binaries.kstatus()], input=text, capture_output=True, text=True, check=True)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    return [(each["status"], each["message"]) for each in found]


@dataclass(frozen=True)
class States:
    """All states that an object has had since the watch began, as the API server told them."""

    name: str
    file: Path

    @property
    def all(self) -> list[Object]:
        """Oldest first; those of all objects of this name."""
        text, found, place = self.file.read_text(), [], 0
        decoder = json.JSONDecoder()
        while (place := text.find("{", place)) >= 0:
            try:
                value, place = decoder.raw_decode(text, place)
            except ValueError:
                break  # the last one is not written to its end yet
            found.append(value)
        return [each for each in found if each["metadata"]["name"] == self.name]

    @property
    def verdicts(self) -> list[str]:
        """What kstatus said of them, one after the other; several alike are one."""
        found = [status for status, _ in verdicts(self.all)]
        return [status for place, status in enumerate(found) if place == 0 or found[place - 1] != status]


@contextmanager
def watched(llama: Llama, file: Path) -> Iterator[States]:
    """Watch the object, whether it exists or not, until the block ends."""
    command = llama.cluster.kubectl.command("get", "llamaservers", "--watch", "--output=json")
    with file.open("wb") as out, subprocess.Popen([*command, f"--namespace={llama.namespace}"], stdout=out) as process:
        try:
            other = replace(llama, name="watching", spec=spec_of(replicas=0)).apply()
            until(lambda: States(other.name, file).all, "the watch has begun")
            other.cluster.kubectl.delete("llamaserver", other.name, other.namespace, wait=False)
            yield States(llama.name, file)
        finally:
            process.kill()
