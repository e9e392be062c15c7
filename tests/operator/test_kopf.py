"""The private names of kopf that the operator uses exist in the installed version, and there are no others."""

import importlib
import inspect
import re
from pathlib import Path

import kopf
import llamaserver_operator
from kopf._cogs.structs.references import Insights
from llamaserver_operator import logs

CODE = Path(llamaserver_operator.__file__).parent
PRIVATE = {"kopf._cogs.structs.references", *logs.SILENCED}


def test_the_operator_uses_no_other_private_name() -> None:
    found = {name for file in CODE.rglob("*.py") for name in re.findall(r"\bkopf(?:\.\w+)*\._[\w.]+", file.read_text())}
    assert found == PRIVATE


def test_the_silenced_loggers_are_modules_of_kopf() -> None:
    for name in logs.SILENCED:
        assert importlib.import_module(name).__name__ == name


async def test_kopf_reports_what_it_watches() -> None:
    annotation = inspect.signature(kopf.operator).parameters["insights"].annotation
    assert "Insights" in str(annotation)
    insights = Insights()
    assert not insights.ready_resources.is_set()
    assert insights.watched_resources == set()
