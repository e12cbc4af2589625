"""verl's own code composes our settings, loads our reward file, reads our data and scores with it.

In an environment of its own, since verl pins another transformers: `make test-verl`.
"""

import asyncio
import json
import math
import shlex
from pathlib import Path

import pytest

pytest.importorskip("verl", reason="verl is not installed here: make test-verl")

import numpy as np
import torch
import verl.trainer
from hydra import compose, initialize_config_dir
from transformers import AutoTokenizer
from verl import DataProto
from verl.trainer.ppo.core_algos import get_kl_controller, kl_penalty
from verl.trainer.ppo.reward import load_reward_manager
from verl.utils.dataset.rl_dataset import RLHFDataset

from vbon.cli import main
from vbon.integrations.lookup import sequence_rewards

pytestmark = pytest.mark.filterwarnings("ignore")  # the host's own warnings are not ours to keep

N = 8
PROMPTS = ["start", [{"role": "user", "content": "start"}]]


@pytest.fixture
def host(draw_pool, lab, tmp_path: Path):
    """(pool, verl's configuration from our run.sh, its tokenizer) after `vbon integrate verl`."""
    tokenizer = AutoTokenizer.from_pretrained(lab.model)
    tokenizer.chat_template = "start{% for m in messages %} {{ m['content'] }}{% endfor %}"
    tokenizer.save_pretrained(lab.model)
    pool = draw_pool(20, PROMPTS)
    folder = tmp_path / "verl"
    assert main(["integrate", "verl", "--pool", str(pool.path), "--n", str(N), "--out", str(folder)]) == 0
    words = shlex.split((folder / "run.sh").read_text().split("main_ppo", 1)[1].replace("\\\n", " "))
    lines = [word.replace("$HERE", str(folder)) for word in words if word != "$@"]
    with initialize_config_dir(str(Path(verl.trainer.__file__).parent / "config"), version_base=None):
        config = compose("ppo_trainer", overrides=lines)
    tokenizer.chat_template = config.actor_rollout_ref.model.custom_chat_template
    return pool, config, tokenizer


def test_the_settings_are_verls_words_for_the_objective(host):
    _, config, _ = host
    controller = get_kl_controller(config.algorithm.kl_ctrl)
    controller.update(current_kl=100.0, n_steps=1000)
    assert config.algorithm.use_kl_in_reward and controller.value == pytest.approx(1 / 7)  # fixed
    policy, reference = torch.tensor([[-1.0, -2.5]]), torch.tensor([[-1.5, -2.0]])
    assert torch.equal(kl_penalty(policy, reference, config.algorithm.kl_penalty), policy - reference)  # k1
    assert not config.actor_rollout_ref.actor.use_kl_loss
    rollout = config.actor_rollout_ref.rollout
    assert (rollout.temperature, rollout.top_p, rollout.top_k, rollout.response_length) == (1.0, 1.0, -1, 4)


def test_verl_reads_our_data_and_scores_with_our_function(host, lab):
    pool, config, tokenizer = host
    dataset = RLHFDataset(config.data.train_files, tokenizer, config.data)
    manager = load_reward_manager(config, tokenizer)
    expected_ids = [[7], [7, 7]]  # "start", and the chat template's "start" before the message
    for index, text in enumerate([" e e", "a"]):
        row = dataset[index]
        assert list(tokenizer.apply_chat_template(row["raw_prompt"], return_dict=False)) == expected_ids[index]
        score = asyncio.run(_score(manager, row, tokenizer(text)["input_ids"]))
        reward = lab.rewards("positions")[0, lab.world.texts.index(text)]
        rho = sequence_rewards([reward], [pool.rewards[20 * index : 20 * (index + 1)]], N)[0]
        assert score["reward_score"] == pytest.approx(rho) and abs(rho) <= math.log(21)
        assert score["reward_extra_info"]["base_reward"] == pytest.approx(reward)


def test_an_error_is_logged_before_verl_sees_it(host, caplog):
    _, config, tokenizer = host
    row = RLHFDataset(config.data.train_files, tokenizer, config.data)[0]
    row["extra_info"] = {"vbon": json.dumps({"prompt_id": "00"})}
    with pytest.raises(Exception, match="came without ref_rewards"):
        asyncio.run(_score(load_reward_manager(config, tokenizer), row, [1]))
    assert "vbon compute_score failed: a prompt came without ref_rewards" in caplog.text


async def _score(manager, row: dict, response: list[int]) -> dict:
    """verl's manager on one rollout: the response, its stop token, and padding behind the mask."""
    manager.loop = asyncio.get_running_loop()
    tokens = torch.tensor([[*response, 0, 7, 7]])
    mask = torch.tensor([[1] * (len(response) + 1) + [0, 0]])
    fields = {name: np.array([row[name]], dtype=object) for name in ("data_source", "reward_model", "extra_info")}
    return await manager.run_single(DataProto.from_dict({"responses": tokens, "attention_mask": mask}, fields))
