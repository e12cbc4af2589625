"""A real `transformers serve` process, and whether texts that it gave follow known probabilities."""

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from scipy.stats import chisquare
from tests.ports import free_port
from transformers.utils.import_utils import is_serve_available


@contextmanager
def transformers_serve(model: Path, folder: Path) -> Iterator[str]:
    """The base URL of a server of `model`; its log goes to `folder`. Skips where the extra `serve` is missing."""
    if not is_serve_available():
        pytest.skip("transformers serve is not installed: pip install -e '.[serve]'")
    port, log = free_port(), folder / "log"
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(model), "--port", str(port)]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with open(log, "w") as output, subprocess.Popen(command, stdout=output, stderr=output, env=environment) as process:
        try:
            _wait_for(f"http://127.0.0.1:{port}/health", process, log)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()


def p_value(texts: Sequence[str], probs: Mapping[str, float]) -> float:
    """χ² of the texts against their probabilities; texts expected fewer than five times are counted together."""
    common = [text for text, prob in probs.items() if prob * len(texts) >= 5]
    observed = [list(texts).count(text) for text in common]
    expected = [probs[text] * len(texts) for text in common]
    observed.append(len(texts) - sum(observed))
    expected.append(len(texts) - sum(expected))
    return float(chisquare(observed, expected).pvalue)


def _wait_for(url: str, process: subprocess.Popen, log: Path) -> None:
    while process.poll() is None:
        try:
            with urllib.request.urlopen(url):
                return
        except OSError:
            time.sleep(0.3)
    pytest.fail(f"transformers serve did not come up:\n{log.read_text()[-2000:]}")
