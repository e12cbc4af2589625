"""OpenRLHF's own executor loads our reward file and calls it from its threads.

Its GPU parts (vLLM, DeepSpeed) are not needed for that and not installed: `make test-verl` brings the package alone.
The engine that would generate is stood in for; loading, decoding, calling and unpacking are OpenRLHF's.
"""

import asyncio
import importlib.util
import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

agent = pytest.importorskip("openrlhf.utils.agent", reason="OpenRLHF is not installed here: make test-verl")

from openrlhf.datasets.prompts_dataset import preprocess_data  # noqa: E402
from transformers import AutoTokenizer  # noqa: E402

from vbon.cli import main  # noqa: E402
from vbon.integrations.lookup import sequence_rewards  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # the host's own warnings are not ours to keep

N = 8


class Engine:
    """Answers with given tokens, as the vLLM engine would."""

    def __init__(self, tokens: list[int]):
        self.tokens = tokens

    async def generate(self, prompt_token_ids, sampling_params, multi_modal_data=None):
        output = SimpleNamespace(token_ids=self.tokens, finish_reason="stop", logprobs=None)
        return SimpleNamespace(outputs=[output])


@pytest.fixture
def host(draw_pool, tmp_path: Path):
    """(pool, the executor with our reward file, rows of our prompt file) after `vbon integrate openrlhf`."""
    pool = draw_pool(20, ["start", "start start"])
    folder = tmp_path / "openrlhf"
    assert main(["integrate", "openrlhf", "--pool", str(pool.path), "--n", str(N), "--out", str(folder)]) == 0
    rows = [json.loads(line) for line in (folder / "prompts.jsonl").read_text().splitlines()]
    return pool, agent.SingleTurnAgentExecutor([str(folder / "vbon_reward.py")]), rows


def execute(executor, prompt: str, label: str, tokens: list[int], tokenizer) -> dict:
    sampling = SimpleNamespace(max_tokens=4, logprobs=None)
    return asyncio.run(executor.execute(prompt, label, sampling, 16, tokenizer, Engine(tokens)))


def test_openrlhf_scores_with_our_function(host, lab):
    pool, executor, rows = host
    tokenizer = AutoTokenizer.from_pretrained(lab.model)
    for index, text in enumerate([" e e", "a"]):
        prompt, label = preprocess_data(rows[index], input_key="input", label_key="label")
        answer = execute(executor, prompt, label, [*tokenizer(text)["input_ids"], 0], tokenizer)
        reward = lab.rewards("positions")[0, lab.world.texts.index(text)]
        references = pool.rewards[20 * index : 20 * (index + 1)]
        assert answer["reward"].tolist() == pytest.approx(sequence_rewards([reward], [references], N))
        beaten = (references < reward).mean() / 2 + (references <= reward).mean() / 2
        assert answer["scores"].tolist() == pytest.approx([beaten])
        assert answer["extra_logs"]["base_reward"].tolist() == pytest.approx([reward])


def test_every_flag_is_one_of_openrlhfs(host, tmp_path: Path):
    """Against the source of its parser, which cannot be imported without vLLM."""
    spec = importlib.util.find_spec("openrlhf.cli.train_ppo_ray")
    known = set(re.findall(r'"(--[\w.]+)"', Path(spec.origin).read_text()))
    flags = re.findall(r"^  (--\S+)", (tmp_path / "openrlhf" / "run.sh").read_text(), re.MULTILINE)
    assert len(flags) >= 12 and set(flags) <= known


def test_an_error_that_openrlhf_swallows_is_in_our_log(host, lab, caplog):
    _, executor, _ = host
    answer = execute(executor, "start", "no JSON", [1, 0], AutoTokenizer.from_pretrained(lab.model))
    assert answer["reward"] is None
    assert "vbon reward_func failed: label 0: malformed JSON" in caplog.text
