"""The identities of the cluster: a certificate authority, tokens, and kubeconfigs."""

import base64
import json
import secrets
import subprocess
from dataclasses import dataclass
from pathlib import Path

from . import addresses

# user -> groups, as the API server's built-in roles know them
USERS = {
    "admin": "system:masters",
    "system:kube-controller-manager": "",
    "system:kube-scheduler": "",
    "system:kube-proxy": "",
    "system:coredns": "",
    f"system:node:{addresses.NODE_NAME}": "system:nodes",
}
_SERVER_NAMES = (
    "DNS:localhost,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc"
    f",DNS:kubernetes.default.svc.cluster.local,IP:127.0.0.1,IP:{addresses.NODE},IP:{addresses.KUBERNETES}"
)


@dataclass(frozen=True)
class Credentials:
    """The files in one folder. `make` writes them."""

    folder: Path

    @property
    def authority(self) -> Path:
        """The certificate of the authority that signs the API server's."""
        return self.folder / "ca.crt"

    @property
    def tokens(self) -> Path:
        """The API server's token file."""
        return self.folder / "tokens.csv"

    @property
    def service_account_key(self) -> Path:
        """The key that signs service account tokens."""
        return self.folder / "service-account.key"

    def pair(self, name: str) -> tuple[str, str]:
        """A certificate and its key."""
        return str(self.folder / f"{name}.crt"), str(self.folder / f"{name}.key")

    def kubeconfig(self, user: str) -> Path:
        """The kubeconfig of a component, for use inside the sandbox."""
        return self.folder / f"{user.split(':')[1]}.kubeconfig"

    def make(self) -> None:
        """Write all files anew."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o700)
        self._certificate("ca", "/CN=local cluster", "basicConstraints=critical,CA:TRUE")
        self._certificate("apiserver", "/CN=kube-apiserver", f"subjectAltName={_SERVER_NAMES}", signed=True)
        self._certificate("kubelet-client", "/O=system:masters/CN=kube-apiserver", "", signed=True)
        _openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", str(self.service_account_key))
        tokens = {user: secrets.token_hex(16) for user in USERS}
        lines = [f'{token},{user},{user},"{USERS[user]}"\n' for user, token in tokens.items()]
        self.tokens.write_text("".join(lines))
        for user, token in tokens.items():
            if user.startswith("system:"):
                inside = f"https://127.0.0.1:{addresses.API_PORT}"
                self.write_kubeconfig(self.kubeconfig(user), inside, token)

    def admin_token(self) -> str:
        """The token of the administrator."""
        return self.tokens.read_text().partition(",")[0]

    def write_kubeconfig(self, path: Path, server: str, token: str) -> None:
        """A kubeconfig with one cluster, one user, one context."""
        authority = base64.b64encode(self.authority.read_bytes()).decode()
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "local", "cluster": {"server": server, "certificate-authority-data": authority}}],
            "users": [{"name": "local", "user": {"token": token}}],
            "contexts": [{"name": "local", "context": {"cluster": "local", "user": "local"}}],
            "current-context": "local",
        }
        path.touch(0o600)
        path.write_text(json.dumps(content, indent=1))

    def _certificate(self, name: str, subject: str, extension: str, *, signed: bool = False) -> None:
        certificate, key = self.pair(name)
        command = ["req", "-x509", "-days", "30", "-nodes", "-newkey", *_NEW_KEY, "-subj", subject]
        if extension:
            command += ["-addext", extension]
        if signed:
            authority, authority_key = self.pair("ca")
            command += ["-CA", authority, "-CAkey", authority_key, "-addext", "basicConstraints=CA:FALSE"]
        _openssl(*command, "-out", certificate, "-keyout", key)


_NEW_KEY = ("ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)
