"""A RUN: a plain Hugging Face model directory that loads anywhere, with vbon's own files under vbon/."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from vbon.artifacts.files import FolderLock, remove_leftovers, replace_file
from vbon.artifacts.fingerprint import Fingerprint
from vbon.artifacts.json_files import parse_json
from vbon.artifacts.settings import MAY_CHANGE
from vbon.config.fields import flag
from vbon.config.secrets import without_secrets
from vbon.config.train import TrainConfig
from vbon.config.yaml_file import merged_text, read_mapping
from vbon.errors import VbonError
from vbon.training.task import Task

FORMAT = 1


@dataclass
class Origin:
    """What a run was really made with, and where that was allowed to differ from its pool."""

    fingerprint: Fingerprint | None = None
    allowed_mismatches: list[str] = field(default_factory=list)


class RunFolder:
    """Paths of a run, and the refusal to overwrite one."""

    def __init__(self, out: str):
        self.path = Path(out)
        self.own = self.path / "vbon"
        self.metrics = self.own / "metrics.jsonl"
        self.samples = self.own / "samples.jsonl"
        self.checkpoints = self.own / "checkpoints"
        self.description = self.own / "run.json"
        self.sources = self.own / "sources.json"
        self._lock: FolderLock | None = None

    def check(self, config: TrainConfig, sources: Mapping[str, str] | None = None) -> None:
        """Refuse a folder in which this run cannot go; write nothing.

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
        if self.path.exists() and not self.path.is_dir():
            raise VbonError(f"--out {self.path} is a file; choose another --out")
        if started:
            _check_same(self.own / "config.yaml", config)
            _check_same_sources(self.sources, sources or {})

    def open(self, config: TrainConfig, sources: Mapping[str, str] | None = None) -> None:
        """Make the folder, keep other processes out, write the merged config and the digests of what the run reads.

        Raises VbonError where it cannot.
        """
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise VbonError(f"--out {self.path}: cannot be created ({error.strerror}); choose another") from None
        self._lock = FolderLock(self.own, "run")
        remove_leftovers(self.checkpoints)
        try:
            replace_file(self.own / "config.yaml", settings_text(config).encode())
            replace_file(self.sources, (json.dumps(dict(sources or {}), indent=2) + "\n").encode())
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let another process go on with the run."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def write_card(self, text: str) -> None:
        """README.md, the model's card."""
        replace_file(self.path / "README.md", text.encode())


# What may change between a run's start and its resumption: where and when, not what.
_FREE = {"resume", *MAY_CHANGE}


def settings_text(config: TrainConfig) -> str:
    """The merged config as YAML, without the flags that only say how this process is run."""
    return yaml.safe_dump(settings_of(config), sort_keys=False, allow_unicode=True)


def settings_of(config: TrainConfig) -> dict[str, Any]:
    """What `settings_text` writes, as values."""
    settings = yaml.safe_load(merged_text(without_secrets(config)))
    return {name: value for name, value in settings.items() if name not in _FREE}


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
    try:
        policy.save_pretrained(path)
        tokenizer.save_pretrained(path)
    except (OSError, SafetensorError) as error:
        message = f"{path}: the model cannot be written ({error}); free some space, and --resume writes it"
        raise VbonError(message) from None


def describe(folder: RunFolder, config: TrainConfig, task: Task, made: Origin, result: dict[str, Any]) -> None:
    """Write run.json: what made this model, for `vbon evaluate` and `vbon report`."""
    description = {
        "format_version": FORMAT,
        "config": json.loads(json.dumps(config.__dict__)) | {"reward": task.reward.name},
        "n": config.n,
        "objective": config.objective,
        "algorithm": config.algorithm,
        "pool": str(task.pool.path),
        "pool_fingerprint": task.pool.fingerprint.to_json(),
        "fingerprint": None if made.fingerprint is None else made.fingerprint.to_json(),
        "allowed_mismatches": made.allowed_mismatches,
        "ref_model": config.model,
        "reward": task.reward.name,
        "train_prompt_ids": [prompt.prompt_id for prompt in task.prompts],
        "result": result,
    }
    replace_file(folder.description, (json.dumps(description, indent=2, ensure_ascii=False) + "\n").encode())


def _check_same_sources(path: Path, now: Mapping[str, str]) -> None:
    """Refuse to continue a run on another pool, other prompts, another model or reward under the same names."""
    if not path.is_file():  # a run of an earlier version
        return
    then = parse_json(path.read_text(encoding="utf-8"), str(path))
    changed = [name for name, digest in now.items() if isinstance(then, dict) and then.get(name, digest) != digest]
    if changed:
        raise VbonError(
            f"--resume: the {' and the '.join(changed)} of this run {'are' if len(changed) > 1 else 'is'} another one "
            "than when it was started, under the same name; put it back or start another run"
        )


def _check_same(path: Path, config: TrainConfig) -> None:
    then = read_mapping(path)
    for name, value in yaml.safe_load(settings_text(config)).items():
        if then.get(name) != value:
            raise VbonError(
                f"--resume: the run was started with {flag(name)} {then.get(name)!r:.60}, now it is {value}; "
                "use the same settings or start another run"
            )
