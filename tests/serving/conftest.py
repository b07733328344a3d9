"""vLLM's own environment, and the model that it serves in the tests."""

import os
import subprocess
import sys

import pytest

PYTHON = os.environ.get("STTS_VLLM_PYTHON")
NEEDS_VLLM = pytest.mark.skipif(
    not PYTHON, reason="STTS_VLLM_PYTHON names no interpreter that has vLLM; see .ci/serving"
)


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    where = tmp_path_factory.mktemp("serving")
    subprocess.run([sys.executable, "-m", "tests.serving.reference", where], check=True, capture_output=True)
    return where
