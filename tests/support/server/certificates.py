"""Self-signed certificates for tests of TLS, made by the openssl command."""

import subprocess
from pathlib import Path


def make(folder: Path, name: str, key_type: str = "ec", password: str = "") -> tuple[Path, Path]:
    """A new certificate for localhost with this common name, and its key: <name>.crt, <name>.key."""
    certificate, key = folder / f"{name}.crt", folder / f"{name}.key"
    secret = ["-passout", f"pass:{password}"] if password else ["-nodes"]
    names = ["-subj", f"/CN={name}", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    curve = ["-pkeyopt", "ec_paramgen_curve:prime256v1"] if key_type == "ec" else []
    request = ["openssl", "req", "-x509", "-days", "2", "-newkey", key_type, *curve]
    files = ["-out", str(certificate), "-keyout", str(key)]
    subprocess.run([*request, *secret, *names, *files], check=True, capture_output=True)
    return certificate, key


def replace(target: tuple[Path, Path], source: tuple[Path, Path]) -> None:
    """Put other files in place by renaming, as mounted secrets change."""
    for new, old in zip(source, target, strict=True):
        fresh = old.with_name(f".{old.name}")
        fresh.write_bytes(new.read_bytes())
        fresh.replace(old)
