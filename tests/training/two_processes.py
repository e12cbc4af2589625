"""One update on given rollouts, by as many processes as launch this; the main one saves the weights.

    accelerate launch … two_processes.py CONFIG.yaml OUT.safetensors
"""

import sys
from pathlib import Path

from accelerate import Accelerator
from safetensors.torch import save_file

from vbon.config.train import TrainConfig
from vbon.config.yaml_file import load_yaml
from vbon.models import load
from vbon.pool import ReferencePool
from vbon.rewards import load_reward
from vbon.training.online import make_learner, sample_rollouts, set_learning_rates, update, update_settings
from vbon.training.task import make_task, sampling_of


def main(config: TrainConfig, out: Path) -> None:
    accelerator = Accelerator(cpu=True)
    policy, ref_policy = load.load_policy(config.model), load.load_policy(config.model)
    pool, tokenizer = ReferencePool.open(config.pool), load.load_tokenizer(config.model)
    sampling = sampling_of(policy, tokenizer, pool, config)
    task = make_task(pool, tokenizer, load_reward(config.reward), sampling, config.tie_rule, policy)
    learner = make_learner(policy, config, accelerator)
    rollouts = sample_rollouts(learner, ref_policy, task, config, 0)
    set_learning_rates(learner, learner.base_learning_rates)
    update(learner, rollouts, update_settings(config, 1.0, accelerator.num_processes), config.max_grad_norm, 0)
    if accelerator.is_main_process:
        modules = learner.modules()
        tensors = {f"{name}.{key}": t.clone() for name, m in modules.items() for key, t in m.state_dict().items()}
        save_file(tensors, out)


if __name__ == "__main__":
    main(load_yaml(TrainConfig, sys.argv[1]), Path(sys.argv[2]))
