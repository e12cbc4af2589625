"""The texts that `vbon integrate` writes: scripts, settings and a README for each host."""

import shlex
from collections.abc import Sequence
from typing import Any

import yaml

from vbon.core.best_of_n import kl_coef_from_n, kl_from_reference, win_rate
from vbon.pool.store import ReferencePool

TESTED = {"trl": "TRL 1.16", "verl": "verl 0.9.1", "openrlhf": "OpenRLHF 0.11.2"}


def trl_settings(settings: dict[str, Any]) -> str:
    """rloo.yaml: what the objective fixes, then what is yours to tune."""
    tunable = {
        "output_dir": "run",
        "per_device_train_batch_size": 32,
        "num_generations": 8,
        "num_iterations": 2,
        "learning_rate": 1e-6,
        "logging_steps": 10,
        "report_to": "none",
    }
    head = "# The objective: leave these as they are.\n"
    return head + yaml.safe_dump(settings) + "# Yours to tune.\n" + yaml.safe_dump(tunable, sort_keys=False)


def trl_script(model: str, reward: str, n: float) -> str:
    """train.py: the dataset with its references, RLOOTrainer, rloo.yaml; flags of RLOOConfig win over the file."""
    return f'''"""vBoN with TRL's RLOOTrainer. Flags win over rloo.yaml: python train.py --max_steps 100"""

import sys
from pathlib import Path

from datasets import concatenate_datasets, load_dataset
from trl import RLOOConfig, RLOOTrainer, TrlParser

from vbon.integrations.trl import VbonReward

HERE = Path(__file__).parent
MODEL, REWARD, N = {model!r}, {reward!r}, {n!r}


def main() -> None:
    config = ["--config", str(HERE / "rloo.yaml"), *sys.argv[1:]]
    (args,) = TrlParser(RLOOConfig).parse_args_and_config(config)
    dataset = load_dataset("parquet", data_files=str(HERE / "dataset.parquet"), split="train")
    # TRL drops a batch that is not full: a small dataset is repeated until it fills one.
    prompts_per_batch = args.generation_batch_size // args.num_generations
    dataset = concatenate_datasets([dataset] * -(-prompts_per_batch // len(dataset)))
    reward = VbonReward(REWARD, N, tokenizer=MODEL)
    trainer = RLOOTrainer(model=MODEL, reward_funcs=reward, args=args, train_dataset=dataset)
    trainer.train()
    trainer.save_model()


if __name__ == "__main__":
    main()
'''


def verl_reward(reward: str, n: float) -> str:
    """vbon_reward.py for `reward.custom_reward_function.path`."""
    return f'''"""The reward that verl loads: rho = log W_N/(N-1), against the reference rewards in extra_info."""

from vbon.integrations.verl import make_compute_score

compute_score = make_compute_score(reward={reward!r}, n={n!r})
'''


def openrlhf_reward(reward: str, n: float, special_tokens: Sequence[str]) -> str:
    """vbon_reward.py for `--reward.remote_url`."""
    return f'''"""The reward that OpenRLHF loads: rho = log W_N/(N-1), against the reference rewards in the label."""

from vbon.integrations.openrlhf import make_reward_func

reward_func = make_reward_func(reward={reward!r}, n={n!r}, special_tokens={list(special_tokens)!r})
'''


def shell_script(command: str, lines: Sequence[str]) -> str:
    """run.sh: one setting a line, further ones from the command line last. `$HERE` is the script's directory."""
    words = " \\\n  ".join(_quoted(line) for line in lines)
    here = 'HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"'
    return f'#!/usr/bin/env bash\nset -euo pipefail\n{here}\n\n{command} \\\n  {words} \\\n  "$@"\n'


def readme(host: str, n: float, pool: ReferencePool) -> str:
    """What the directory holds, what to expect, and what the host does not do."""
    samples = f"{len(pool)} prompts with {pool.num_samples.min()} to {pool.num_samples.max()} reference rewards each"
    unknown = ", ".join(pool.fingerprint.unknown())
    warning = f"\nThe pool does not say its {unknown}: make sure they are the host's.\n" if unknown else ""
    return f"""# vBoN, N = {n:g}, in {TESTED[host]}

The data holds {samples} (pool `{pool.path.name}`).
The reward handed to the host is rho = log W_N/(N-1); its KL coefficient is 1/(N-1) = {kl_coef_from_n(n):.6g}, fixed.
Together they maximise -KL(policy || best-of-{n:g}).

{_RUN[host]}
{warning}
Expect, at the optimum and without ties: win rate {float(win_rate(n)):.3f} against one reference sample, and
KL(policy || reference) = {float(kl_from_reference(n)):.3f} nats. A KL far beyond it with the same win rate means that
the two factors do not match, or that sampling differs from the pool's (temperature, length, template, stop tokens).
Then `vbon evaluate` measures the trained model against best-of-{n:g} on a held-out pool.
"""


def _quoted(line: str) -> str:
    flag, space, value = line.partition(" ") if line.startswith("--") else ("", "", line)
    # double quotes let the shell fill in $HERE; such a line holds nothing else that it would touch
    return flag + space + (f'"{value}"' if "$HERE" in value else shlex.quote(value))


_RUN = {
    "trl": """Run `python train.py` (several processes: `accelerate launch train.py`); it needs TRL,
which `pip install -e '.[trl]'` in vbon's clone installs.
RLOO subtracts the summed KL from the reward, so this is the vBoN objective itself. GRPO only comes near it:
`vbon.integrations.trl.grpo_config_kwargs` has its settings and its module docstring the bias.""",
    "verl": """Run `bash run.sh` (append overrides: `bash run.sh trainer.n_gpus_per_node=8`); vbon must be installed
where verl's workers run. Prompts are rendered already: the chat template in run.sh adds nothing to them.
verl wants a validation file, and run.sh names the training data: override `data.val_files` with your own.""",
    "openrlhf": """Run `bash run.sh` (append flags: `bash run.sh --actor.num_gpus_per_node 8`); vbon must be installed
where OpenRLHF's workers run. Prompts are rendered already: do not add `--data.apply_chat_template` or a template.
OpenRLHF swallows exceptions of a reward function: search the workers' logs for `vbon reward_func failed`.""",
}
