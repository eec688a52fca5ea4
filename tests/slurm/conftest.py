"""The tests here start daemons and edit the hosts file: only in a throwaway container."""

import os

import pytest

from tests.slurm.cluster import cluster


@pytest.fixture(scope="session")
def slurm(tmp_path_factory):
    if os.environ.get("FINISHLINE_SLURM_TEST") != "1":
        pytest.skip("starts daemons and edits /etc/hosts: FINISHLINE_SLURM_TEST=1 allows it")
    with cluster(tmp_path_factory.mktemp("slurm")) as made:
        yield made
