"""What the workflow `release` needs to know: `python -m tools.release about IMAGE ACCELERATOR | notes VERSION`.

about    names, tag and build arguments of an image, as outputs of a step of GitHub Actions
notes    the section of a version in CHANGELOG.md
"""

import argparse
import re
import sys

from . import images

_IMAGES = {"server": images.SERVER, "operator": images.OPERATOR}


def about(name: str, accelerator: str) -> str:
    """Lines NAME=VALUE; the build arguments take several lines."""
    image = _IMAGES[name]
    tag = image.tag(accelerator).partition(":")[2]
    arguments = "".join(f"{key}={value}\n" for key, value in image.arguments(accelerator).items())
    return f"name={image.name}\ntag={tag}\ndockerfile={image.dockerfile}\narguments<<END\n{arguments}END\n"


def notes(version: str, changelog: str) -> str:
    """The section of a version, without its heading."""
    found = re.search(rf"^## \[{re.escape(version)}\][^\n]*\n(.*?)(?=^## |\Z)", changelog, re.MULTILINE | re.DOTALL)
    return found[1].strip() + "\n" if found else sys.exit(f"CHANGELOG.md has no section [{version}]")


def _main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.release")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("about")
    command.add_argument("image", choices=_IMAGES)
    command.add_argument("accelerator", choices=images.ACCELERATORS)
    commands.add_parser("notes").add_argument("version")
    chosen = parser.parse_args()
    if chosen.command == "about":
        sys.stdout.write(about(chosen.image, chosen.accelerator))
    else:
        sys.stdout.write(notes(chosen.version, (images.ROOT / "CHANGELOG.md").read_text(encoding="utf-8")))


if __name__ == "__main__":
    _main()
