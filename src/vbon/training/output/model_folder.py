"""The result of a finished run: a model directory that samples as in training, and the record of what made it."""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from vbon.artifacts.run import Provenance, RunRecord
from vbon.config.train import TrainConfig
from vbon.errors import VbonError
from vbon.training.task import Task
from vbon.training.validation import prompts_measured


def save_model(path: Path, policy: Any, tokenizer: PreTrainedTokenizerBase, task: Task) -> None:
    """Write weights (safetensors), tokenizer, and a generation config that samples as in training.

    Args:
        path: the folder of the run.
        policy: the policy; with adapters, these alone are written, and the name of the model that they belong to.
        tokenizer: its tokenizer.
        task: it says how completions were drawn.

    Raises:
        VbonError: The disk is full or refuses. The last checkpoint holds what the same command needs to try again.
    """
    generation = GenerationConfig(
        do_sample=True,
        temperature=task.sampling.temperature,
        top_p=1.0,
        top_k=0,
        max_new_tokens=task.sampling.max_new_tokens,
        eos_token_id=list(task.sampling.stop_token_ids),
        pad_token_id=task.sampling.pad_token_id,
        bos_token_id=policy.config.get_text_config().bos_token_id,
    )
    if isinstance(policy, PreTrainedModel):
        policy.generation_config = generation
    try:
        policy.save_pretrained(path)
        generation.save_pretrained(path)
        tokenizer.save_pretrained(path)
    except (OSError, SafetensorError) as error:
        message = f"{path}: the model cannot be written ({error}); free some space and run the same command again"
        raise VbonError(message) from None


def run_record(
    config: TrainConfig,
    given: dict[str, Any],
    task: Task,
    validation: Task,
    provenance: Provenance,
    result: dict[str, Any],
) -> RunRecord:
    """Make the record of a finished run, for `vbon evaluate`, `vbon report` and a repeated `vbon train`.

    Args:
        config: The settings with every default filled in.
        given: The settings as the command gave them.
        task: The training prompts, with their pool.
        validation: The validation prompts, with theirs.
        provenance: What the run was made with.
        result: What `VBoNTrainer.train` returns, without `out`.

    Returns:
        The record.
    """
    measured = prompts_measured(len(validation), config.seed).tolist()
    return RunRecord(
        config=json.loads(json.dumps(config.__dict__)) | {"reward": task.reward.name},
        given=given,
        n=config.n,
        tilt=config.tilt,
        objective=config.objective,
        algorithm=config.algorithm,
        pool=str(task.pool.path),
        pool_fingerprint=task.pool.fingerprint,
        fingerprint=provenance.fingerprint,
        allowed_mismatches=provenance.allowed_mismatches,
        ref_model=config.model,
        reward=task.reward.name,
        train_prompt_ids=tuple(prompt.prompt_id for prompt in task.prompts),
        validation_prompt_ids=tuple(validation.prompts[i].prompt_id for i in measured),
        result=result,
    )
