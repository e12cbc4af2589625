"""A RUN: a plain Hugging Face model directory that loads anywhere, with vbon's own files under vbon/."""

import json
from pathlib import Path
from typing import Any

from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from vbon.config.train import TrainConfig
from vbon.config.yaml_file import merged_text
from vbon.errors import VbonError
from vbon.pool.files import replace_file
from vbon.training.task import Task

FORMAT = 1


class RunFolder:
    """Paths of a run, and the refusal to overwrite one."""

    def __init__(self, out: str):
        self.path = Path(out)
        self.own = self.path / "vbon"
        self.metrics = self.own / "metrics.jsonl"
        self.samples = self.own / "samples.jsonl"
        self.checkpoints = self.own / "checkpoints"
        self.description = self.own / "run.json"

    def open(self, config: TrainConfig) -> None:
        """Make the folder, or with `resume` find it started with these settings; write the merged config.

        Raises:
            VbonError: there is a run already, or none to resume, or it was started with other settings.
        """
        started = (self.own / "config.yaml").is_file()
        if started and not config.resume:
            raise VbonError(
                f"--out {self.path}: there is a run already; --resume continues it, or choose another --out"
            )
        if config.resume and not started:
            raise VbonError(f"--resume: {self.path} holds no run to resume; leave --resume out to start one")
        settings = settings_text(config)
        if started:
            _check_same(self.own / "config.yaml", settings)
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        replace_file(self.own / "config.yaml", settings.encode())


# What may change between a run's start and its resumption: where and when, not what.
_FREE = ("resume", "out", "device", "num_threads", "tracker", "checkpoint_every", "keep_checkpoints")


def settings_text(config: TrainConfig) -> str:
    """The merged config as YAML, without the flags that only say how this process is run."""
    lines = merged_text(config).splitlines(keepends=True)
    return "".join(line for line in lines if line.partition(":")[0] not in _FREE)


def save_model(path: Path, policy: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, task: Task) -> None:
    """Weights (safetensors), tokenizer, and a generation config that samples as in training."""
    policy.generation_config = GenerationConfig(
        do_sample=True,
        temperature=task.sampling.temperature,
        top_p=1.0,
        top_k=0,
        max_new_tokens=task.sampling.max_new_tokens,
        eos_token_id=list(task.sampling.stop_token_ids),
        pad_token_id=task.sampling.pad_token_id,
        bos_token_id=policy.config.get_text_config().bos_token_id,
    )
    policy.save_pretrained(path)
    tokenizer.save_pretrained(path)


def describe(folder: RunFolder, config: TrainConfig, task: Task, allowed: list[str], result: dict[str, Any]) -> None:
    """Write run.json: what made this model, for `vbon evaluate` and `vbon report`."""
    description = {
        "format_version": FORMAT,
        "config": json.loads(json.dumps(config.__dict__)) | {"reward": task.reward.name},
        "n": config.n,
        "objective": config.objective,
        "algorithm": config.algorithm,
        "pool": str(task.pool.path),
        "pool_fingerprint": task.pool.fingerprint.to_json(),
        "allowed_mismatches": allowed,
        "ref_model": config.model,
        "reward": task.reward.name,
        "train_prompt_ids": [prompt.prompt_id for prompt in task.prompts],
        "result": result,
    }
    replace_file(folder.description, (json.dumps(description, indent=2, ensure_ascii=False) + "\n").encode())


def _check_same(path: Path, settings: str) -> None:
    old = dict(line.split(":", 1) for line in path.read_text().splitlines() if ":" in line)
    new = dict(line.split(":", 1) for line in settings.splitlines() if ":" in line)
    changed = [key for key in new if old.get(key) != new[key]]
    if changed:
        flag = "--" + changed[0].replace("_", "-")
        raise VbonError(
            f"--resume: the run was started with {flag}{old.get(changed[0], ' unset')}, now it is{new[changed[0]]}; "
            "use the same settings or start another run"
        )
