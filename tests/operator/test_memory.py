"""A real operator and an API server that is full of the largest objects."""

import json
from pathlib import Path

import pytest

from tests.support.operator.full_api import FullApi
from tests.support.operator.operator_process import OperatorProcess
from tests.support.polling import until

COUNT = 2000
MIB = 256


@pytest.mark.slow
def test_two_thousand_of_the_largest_objects_fit_in_256_mib(tmp_path: Path) -> None:
    """The container has 512 MiB. No list has whole objects, and pages are small."""
    with FullApi(COUNT) as api:
        config = {
            "clusters": [{"name": "it", "cluster": {"server": f"http://127.0.0.1:{api.port}"}}],
            "users": [{"name": "it", "user": {}}],
            "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
            "current-context": "it",
        }
        kubeconfig = tmp_path / "kubeconfig"
        kubeconfig.write_text(json.dumps(config))
        with OperatorProcess(kubeconfig, tmp_path / "log", "--server-image=image") as operator:
            operator.until_leading()

            def all_is_listed() -> bool:
                listed = api.listed
                # once for the watch and once to reconcile all
                return (
                    listed["llamaservers", "metadata"] >= 2 * COUNT
                    and listed["deployments", "metadata"] >= COUNT
                    and len(api.read) >= 50
                )

            until(all_is_listed, "everything is listed, and some objects are reconciled", 240)
            status = Path(f"/proc/{operator.process.pid}/status").read_text()
            assert "reconcile failed" not in operator.log
        assert api.listed["llamaservers", "whole"] == 0
    (peak,) = [int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")]
    print(f"peak {peak >> 10} MiB, {len(api.read)} objects read")
    assert peak >> 10 < MIB
