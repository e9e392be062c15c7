"""Tests that a machine cannot run: skipped in so many words, and a failure where none may be left out."""

from typing import NoReturn

import pytest

from dev.localcluster.prepare import required


def lacking(what: str) -> NoReturn:
    """Leave out the running test, or fail it where REQUIRE_CLUSTER=1, as in CI."""
    (pytest.fail if required() else pytest.skip)(what)
