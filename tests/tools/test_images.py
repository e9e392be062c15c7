"""The container images: what their Dockerfiles promise, and the commands that build and push them."""

import itertools
import re
import subprocess
from pathlib import Path

import pytest

from tools import buildtools, container, images, standin

BOTH = pytest.mark.parametrize("image", images.IMAGES, ids=lambda image: image.name)


def dockerfile(image):
    """Instructions with their arguments, continued lines joined, by stage."""
    text = (images.ROOT / image.dockerfile).read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    stages = [[]]
    for line in lines:
        word, _, rest = line.partition(" ")
        if word == "FROM":
            stages.append([])
        stages[-1].append((word, " ".join(rest.split())))
    return stages


def last(image, word):
    return [rest for name, rest in dockerfile(image)[-1] if name == word]


@BOTH
def test_the_final_stage_is_numeric_labelled_and_starts_the_command(image):
    assert last(image, "USER") == ["10001:10001"]
    assert last(image, "ENTRYPOINT") == [f'["{image.name}"]']
    (label,) = last(image, "LABEL")
    for key in ("title", "description", "licenses", "version"):
        assert f"org.opencontainers.image.{key}=" in label


@BOTH
def test_the_final_stage_installs_no_build_tools(image):
    ran = " ".join(last(image, "RUN"))
    assert not re.search(r"\b(pip|gcc|g\+\+|cmake|ninja|venv|build-essential)\b", ran)
    copied = [rest for rest in last(image, "COPY") if rest.startswith("--from=")]
    folder = f"/opt/{image.name}"
    assert copied == [f"--from=build {folder} {folder}", f"--from=build /opt/own {folder}"]


@BOTH
def test_bases_are_pinned_by_tag(image):
    declared = dict(rest.split("=", 1) for word, rest in dockerfile(image)[0] if word == "ARG")
    assert set(declared) == {"BUILD_BASE", "RUN_BASE"}
    bases = [declared[f"{stage}_BASE"] for stage in ("BUILD", "RUN")]
    bases += [value for given in images.ACCELERATORS.values() for key, value in given.items() if key.endswith("_BASE")]
    for base in bases:
        tag = base.rpartition(":")[2]
        assert re.search(r"\d", tag), base
        assert "latest" not in tag
        assert "@" not in base
    assert [rest for stage in dockerfile(image) for word, rest in stage if word == "FROM"] == [
        "${BUILD_BASE} AS build",
        "${RUN_BASE}",
    ]


@pytest.mark.parametrize("accelerator", images.ACCELERATORS)
@BOTH
def test_a_dockerfile_declares_every_argument_it_is_given(image, accelerator, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1/simple")
    declared = {rest.partition("=")[0] for stage in dockerfile(image) for word, rest in stage if word == "ARG"}
    given = image.arguments(accelerator)
    command = container.Engine("buildah").build_command(Path(image.dockerfile), "x:1", given, Path())
    passed = {value.partition("=")[0] for flag, value in itertools.pairwise(command) if flag == "--build-arg"}
    assert set(given) <= passed <= declared


def test_tags_carry_version_and_accelerator():
    assert images.SERVER.tag("cpu") == f"llamaserver:{images.SERVER.version}"
    assert images.SERVER.tag("cuda") == f"llamaserver:{images.SERVER.version}-cuda"
    assert images.OPERATOR.tag("cuda") == f"llamaserver-operator:{images.OPERATOR.version}"


def test_a_build_sees_what_its_dockerfile_copies_and_nothing_else(monkeypatch, tmp_path):
    wheel = tmp_path / "llama_cpp_python-1-py3-none-any.whl"
    wheel.touch()
    monkeypatch.setattr(images, "_wheel", lambda accelerator: wheel)
    for image in images.IMAGES:
        with images._context(image, "cpu") as context:
            held = {str(path.relative_to(context)) for path in context.rglob("*") if path.is_file()}
        tools = {name for name in held if name.startswith("tools/")}
        assert tools == {"tools/__init__.py", "tools/locked.py"}
        assert f"{image.package}/pyproject.toml" in held
        assert not [name for name in held if "__pycache__" in name or ".egg-info" in name]
        others = {name.split("/")[0] for name in held} - {"tools", image.package}
        wheels = {"wheels"} if image.needs_llama else set()
        assert others == {"LICENSE", "requirements.lock", image.dockerfile} | wheels


def test_the_wheel_is_compiled_in_the_image_where_ours_would_not_run(monkeypatch, tmp_path):
    monkeypatch.setattr(images, "ROOT", tmp_path)  # no wheels/ there
    monkeypatch.setattr(buildtools, "python", lambda: pytest.fail("a wheel is compiled for nothing"))
    monkeypatch.setattr(images.platform, "libc_ver", lambda: ("glibc", "2.39"))
    assert images._wheel("cpu") is None
    monkeypatch.setattr(images.platform, "libc_ver", lambda: ("glibc", "2.36"))
    assert images._wheel("cuda") is None
    (tmp_path / "wheels").mkdir()
    given = tmp_path / "wheels" / "llama_cpp_python-1-py3-none-any.whl"
    given.touch()
    assert images._wheel("cuda") == given


def recorder(tmp_path, name, refuses=""):
    """A program that notes its arguments, one call a line, and fails for one verb."""
    program, log = tmp_path / name, tmp_path / "calls"
    fails = f'case "$1" in {refuses}) echo "no such host" >&2; exit 1;; esac\n' if refuses else ""
    program.write_text(f'#!/bin/sh\necho "$@" >>{log}\n{fails}')
    program.chmod(0o755)
    return container.Engine(str(program)), log


@pytest.mark.parametrize("name", ["docker", "podman", "buildah"])
def test_each_engine_is_told_in_its_own_words(tmp_path, name):
    engine, log = recorder(tmp_path, name)
    engine.build(Path("Dockerfile"), "x:1", {"A": "b"}, Path("context"))
    engine.push("x:1", "127.0.0.1:5000/x:1")
    engine.push("x:1", "registry.example.com/me/x:1")
    build, *pushes = log.read_text().splitlines()
    assert build.startswith("bud " if name == "buildah" else "build ")
    assert build.endswith(" context")
    assert "--build-arg A=b" in build
    if name == "docker":
        assert "--isolation" not in build
        assert pushes == [
            "tag x:1 127.0.0.1:5000/x:1",
            "push 127.0.0.1:5000/x:1",
            "tag x:1 registry.example.com/me/x:1",
            "push registry.example.com/me/x:1",
        ]
    else:
        assert "--isolation chroot" in build
        assert pushes == [
            "push --tls-verify=false x:1 docker://127.0.0.1:5000/x:1",
            "push x:1 docker://registry.example.com/me/x:1",
        ]


@pytest.mark.parametrize(
    ("name", "calls"),
    [
        ("docker", ["run --rm --network none --entrypoint cat x:1 /a"]),
        ("podman", ["run --rm --network none --entrypoint cat x:1 /a"]),
        ("buildah", ["from --pull-never x:1", "run --isolation chroot made-1 -- cat /a", "rm made-1"]),
    ],
)
def test_each_engine_tells_what_a_command_prints(tmp_path, name, calls):
    engine, log = recorder(tmp_path, name)
    with Path(engine.program).open("a") as program:
        program.write('case "$1" in from) echo made-1;; run) echo text;; esac\n')
    assert engine.output("x:1", "cat", "/a") == "text\n"
    assert log.read_text().splitlines() == calls


def test_a_command_that_fails_ends_the_build(tmp_path):
    engine, _ = recorder(tmp_path, "docker", refuses="run")
    with pytest.raises(SystemExit, match="docker run failed: no such host"):
        engine.output("x:1", "cat", "/a")


def test_a_failing_engine_ends_the_build(tmp_path):
    engine, _ = recorder(tmp_path, "docker", refuses="build")
    with pytest.raises(SystemExit, match="docker build failed with status 1"):
        engine.build(Path("Dockerfile"), "x:1", {}, Path())


def test_the_stand_in_is_taken_only_where_no_registry_answers(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(standin, "ensure", lambda engine: "localhost/stand-in:1")
    reached, _ = recorder(tmp_path, "podman")
    assert images._base(reached) == ""
    refused, log = recorder(tmp_path, "docker", refuses="pull|image")
    assert images._base(refused) == "localhost/stand-in:1"
    assert f"pull {images.default_base()}" in log.read_text()
    told = capfd.readouterr().err
    assert "cannot be pulled: no such host" in told
    assert (
        f"NOTE: localhost/stand-in:1, made here from Debian's packages, takes the place of {images.default_base()}"
        in told
    )


def test_the_archives_name_changes_with_what_an_image_is_built_from(tmp_path):
    (tmp_path / "server").mkdir()
    (tmp_path / "server" / "a.py").write_text("one")
    first = images._digest(tmp_path, "")
    assert images._digest(tmp_path, "") == first
    assert images._digest(tmp_path, "other:1") != first
    (tmp_path / "server" / "a.py").write_text("two")
    second = images._digest(tmp_path, "")
    (tmp_path / "server" / "a.py").rename(tmp_path / "server" / "b.py")
    assert len({first, second, images._digest(tmp_path, "")}) == 3


def test_ignored_by_docker_is_nothing_that_a_dockerfile_copies():
    allowed = {line[1:] for line in (images.ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for image in images.IMAGES:
        sources = {
            source.split("/")[0]
            for stage in dockerfile(image)
            for word, rest in stage
            if word == "COPY" and not rest.startswith("--from")
            for source in rest.split()[:-1]
        }
        assert {"wheels" if source == "wheel[s]" else source for source in sources} <= allowed


def test_make_push_asks_where_to():
    make = ["make", "--no-print-directory"]
    done = subprocess.run([*make, "push"], cwd=images.ROOT, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "REGISTRY is missing" in done.stderr
    asked = subprocess.run(
        [*make, "-n", "push", "REGISTRY=r/x"], cwd=images.ROOT, capture_output=True, text=True, check=True
    )
    assert asked.stdout.split()[-1] == "r/x"
