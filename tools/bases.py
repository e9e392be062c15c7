"""The base images by digest: `python -m tools.bases` asks their registries and writes bases.lock anew.

A tag can name another image tomorrow, a digest cannot. Builds use the digests of bases.lock. A base without a known
digest is built by its tag. No digest is made up: when a registry cannot be asked, its lines stay as they are, and the
command says so and fails. The protocol is that of the OCI distribution specification (registry API v2).
"""

import json
import re
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path

LOCK = Path(__file__).parent.parent / "bases.lock"
UNKNOWN = "unknown"
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_HEAD = """\
# The base images of our images, by digest. Written by `make bases`, which asks the registries.
# unknown: no registry could be asked yet. Builds then take what the tag names.
"""
_KINDS = ", ".join(
    f"application/vnd.{kind}+json"
    for kind in (
        *("oci.image.index.v1", "docker.distribution.manifest.list.v2"),  # of several platforms
        *("oci.image.manifest.v1", "docker.distribution.manifest.v2"),
    )
)
_SECONDS = 30.0
_HUB = "registry-1.docker.io"
_LOCAL = ("localhost", "127.0.0.1")  # registries without TLS


def read(lock: Path = LOCK) -> dict[str, str]:
    """The digest of each base, UNKNOWN where it is not known."""
    lines = [line.split() for line in lock.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    found = {line[0]: line[1] for line in lines if len(line) == 2}
    if bad := [base for base, digest in found.items() if digest != UNKNOWN and not _DIGEST.fullmatch(digest)]:
        sys.exit(f"{lock.name}: the digest of {', '.join(bad)} must be sha256: and 64 hex digits, or {UNKNOWN}")
    return found


def pinned(base: str, locked: Mapping[str, str] | None = None) -> str:
    """The base by its digest, if that is known, else by its tag."""
    digest = (read() if locked is None else locked).get(base, UNKNOWN)
    return base if digest == UNKNOWN else f"{base.rpartition(':')[0]}@{digest}"


def digest_of(name: str) -> str | None:
    """The digest in the name of an image, or None."""
    found = _DIGEST.search(name)
    return found[0] if found else None


def renew(lock: Path = LOCK) -> list[str]:
    """Write the lock with the present digests. Returns a line for each registry that could not be asked."""
    digests, problems = read(lock), []
    for base in digests:
        try:
            digests[base] = ask(base)
        except (OSError, ValueError) as error:  # urllib's errors are OSErrors
            problems.append(f"{base}: {error}")
    lock.write_text(_HEAD + "".join(f"{base} {digest}\n" for base, digest in digests.items()), encoding="utf-8")
    return problems


def ask(base: str) -> str:
    """The digest that the registry has for this tag. OSError or ValueError when it does not say."""
    host, repository, tag = parts(base)
    scheme = "http" if host.partition(":")[0] in _LOCAL else "https"
    url = f"{scheme}://{host}/v2/{repository}/manifests/{tag}"
    try:
        digest = _digest(url, {})
    except urllib.error.HTTPError as error:
        if error.code != 401:
            raise
        token = _token(error.headers.get("WWW-Authenticate", ""))
        digest = _digest(url, {"Authorization": f"Bearer {token}"})
    if not _DIGEST.fullmatch(digest):
        raise ValueError(f"{host} answered without a digest")
    return digest


def parts(base: str) -> tuple[str, str, str]:
    """Registry, repository and tag. A name without a registry is one of Docker Hub."""
    name, _, tag = base.rpartition(":")
    host, slash, rest = name.partition("/")
    if slash and ("." in host or ":" in host or host == "localhost"):
        return host, rest, tag
    return _HUB, name if slash else f"library/{name}", tag


def _digest(url: str, headers: Mapping[str, str]) -> str:
    asked = urllib.request.Request(url, method="HEAD", headers={"Accept": _KINDS, **headers})
    with urllib.request.urlopen(asked, timeout=_SECONDS) as answer:
        return str(answer.headers.get("Docker-Content-Digest", ""))


def _token(challenge: str) -> str:
    """A token for reading, from the place that the registry named."""
    about = dict(re.findall(r'(\w+)="([^"]*)"', challenge))
    realm = urllib.parse.urlsplit(about.get("realm", ""))
    if realm.scheme != "https" and realm.hostname not in _LOCAL:
        raise ValueError("the registry asks for a login")
    query = urllib.parse.urlencode({key: about[key] for key in ("service", "scope") if key in about})
    with urllib.request.urlopen(f"{about['realm']}?{query}", timeout=_SECONDS) as answer:
        given = json.load(answer)
    if isinstance(given, dict) and isinstance(token := given.get("token") or given.get("access_token"), str):
        return token
    raise ValueError(f"{realm.hostname} answered without a token")


if __name__ == "__main__":
    if problems := renew():
        sys.exit("\n".join([*problems, f"{LOCK.name}: these lines stay as they were"]))
