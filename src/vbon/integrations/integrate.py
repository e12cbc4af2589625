"""`vbon integrate HOST`: a directory that another trainer can run: data with references, reward, settings, README."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from transformers import PreTrainedTokenizerBase

from vbon.artifacts.files import replace_file
from vbon.artifacts.fingerprint import Fingerprint
from vbon.artifacts.json_files import first_line, lines_text
from vbon.config.integrate import IntegrateConfig
from vbon.core.best_of_n import kl_coef_from_n
from vbon.errors import VbonError
from vbon.integrations import openrlhf, trl, verl
from vbon.integrations.lookup import encode_reference, load_sequence_reward, reference_columns
from vbon.integrations.render import Rendered, render_prompts
from vbon.integrations.templates import fill, readme, shell_script, trl_settings
from vbon.models.load import (
    chat_template_fingerprint,
    configured_stop_token_ids,
    load_config,
    load_tokenizer,
    model_fingerprint,
    tokenizer_fingerprint,
)
from vbon.models.prompts import encode, ids_by_default, loses_first_space
from vbon.pool.known_rewards import score_again, texts_of
from vbon.pool.prompt_ids import prompt_ids_of
from vbon.pool.prompts import canonical_json, shorten
from vbon.pool.store import ReferencePool

Files = dict[str, str | bytes]

RIDES_ALONG = ("prompt", "prompt_id", "ref_rewards", "ref_keys", "completion", *trl.HOST_ARGUMENTS)


class HostInputs(NamedTuple):
    """The inputs of every host: the pool, N, the model to start from, the reward, and the prompts as text."""

    pool: ReferencePool
    n: float
    model: str
    reward: str
    special_tokens: list[str]
    rendered: Callable[[], Rendered]


def integrate_command(config: IntegrateConfig) -> dict[str, Any]:
    """Write the directory and say how to run it.

    Raises VbonError where the pool does not say which model or reward made it, was scored by another reward than the
    one given, or holds prompts that the host cannot be handed unchanged; and for an `out` that is not empty.
    """
    out = Path(config.out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise VbonError(f"{out}: not empty; choose another --out")
    host, given = _HOSTS[config.host], _host_inputs(config)
    written = host.files(given) | {"README.md": readme(config.host, host.tested, given.n, given.pool)}
    out.mkdir(parents=True, exist_ok=True)
    for name, content in written.items():
        replace_file(out / name, content if isinstance(content, bytes) else content.encode())
    command = host.command.format(out=out)
    Console(stderr=True).print(f"wrote {out}; read {out}/README.md, then run: {command}", markup=False, soft_wrap=True)
    summary = {"out": str(out), "host": config.host, "files": sorted(written), "n": config.n}
    return {**summary, "kl_coef": kl_coef_from_n(config.n), "command": command}


def _host_inputs(config: IntegrateConfig) -> HostInputs:
    pool = ReferencePool.open(config.pool)
    model = absolute(_known(config.model or pool.manifest.model, "model", pool))
    reward = absolute(_known(config.reward or pool.manifest.reward, "reward", pool))
    scorer = load_sequence_reward(reward, config.n, pool, trust_remote_code=config.trust_remote_code)
    tokenizer = load_tokenizer(model, trust_remote_code=config.trust_remote_code)
    if config.host == "verl" and loses_first_space(tokenizer):
        raise VbonError(
            "verl decodes completions alone, where this model's tokenizer loses the first space, so that the reward "
            "would read other texts than the pool's; train with TRL, OpenRLHF or vbon"
        )
    prompt_ids = prompt_ids_of(tokenizer, pool.prompts, str(pool.path))
    score_again(pool, scorer.reward, texts_of(pool, prompt_ids, tokenizer))  # refuses another reward
    if config.host == "trl":
        _check_as_trl_reads(pool, prompt_ids, tokenizer)
    check_settings(pool, model, tokenizer, config)
    special = [str(token) for token in tokenizer.all_special_tokens]
    return HostInputs(pool, config.n, model, reward, special, lambda: render_prompts(tokenizer, pool.prompts))


def check_settings(
    pool: ReferencePool, model: str, tokenizer: PreTrainedTokenizerBase, config: IntegrateConfig
) -> None:
    """Raise VbonError where a field of the pool's fingerprint is not what the host will use.

    Hosts take temperature and length as settings, and all else from the model's directory: so its stop tokens too.
    """
    known = pool.fingerprint
    described = load_config(model, trust_remote_code=config.trust_remote_code)
    own = configured_stop_token_ids(model, described, tokenizer)
    if known.stop is not None and tuple(known.stop) != own:
        raise VbonError(
            f"{pool.path}: its completions end at the tokens {list(known.stop)}, but {config.host} ends them at the "
            f"model's own, {list(own)}; give as --model a copy whose generation_config.json has eos_token_id "
            f"{list(known.stop)}"
        )
    used = Fingerprint(
        model=model_fingerprint(model),
        tokenizer=tokenizer_fingerprint(tokenizer),
        chat_template=chat_template_fingerprint(tokenizer),
        temperature=known.temperature,
        max_new_tokens=known.max_new_tokens,
        stop=known.stop,
        reward=known.reward,  # compared where it is loaded
    )
    differing = [name for name, *_ in known.differences(used)]
    if differing:
        raise VbonError(
            f"{pool.path}: {model} has another {' and '.join(differing)} than the pool was made with, so its ranks are "
            "not those of the host's samples; give the pool's model, or collect a pool of this one"
        )


def absolute(spec: str) -> str:
    """A model or reward whose local part is an existing path, with that path made absolute: hosts run elsewhere."""
    for mark in (":", "#"):
        path, found, rest = spec.rpartition(mark)
        if found and Path(path).exists():
            return f"{Path(path).resolve()}{mark}{rest}"
    return str(Path(spec).resolve()) if Path(spec).exists() else spec


def _known(value: str | None, name: str, pool: ReferencePool) -> str:
    if value is None:
        raise VbonError(f"{pool.path}: does not say which {name} made it; give --{name}")
    return value


def _check_as_trl_reads(
    pool: ReferencePool, prompt_ids: Sequence[Sequence[int]], tokenizer: PreTrainedTokenizerBase
) -> None:
    """Raise VbonError naming a prompt that TRL, which encodes prompts itself, would train on with other tokens."""
    for prompt, ids in zip(pool.prompts, prompt_ids, strict=True):
        text = prompt.prompt
        read = ids_by_default(tokenizer, text) if isinstance(text, str) else encode(tokenizer, [text])[0]
        if read != list(ids):
            raise VbonError(
                f"{pool.path}: TRL would read prompt {shorten(text)} as other tokens than the pool was sampled with (a "
                "template that prints the date, or a tokenizer that adds EOS); use verl, OpenRLHF or vbon"
            )


def _trl_files(given: HostInputs) -> Files:
    settings = trl.rloo_config_kwargs(given.n, given.pool.fingerprint)
    return {
        "dataset.parquet": _parquet([_trl_row(given.pool, index) for index in range(len(given.pool))], given.pool),
        "rloo.yaml": trl_settings(settings),
        "train.py": fill("trl-train.py", model=given.model, reward=given.reward, n=given.n),
    }


def _trl_row(pool: ReferencePool, index: int) -> dict[str, Any]:
    prompt = pool.prompts[index]
    columns = {**dict.fromkeys(prompt.absent), **prompt.columns}
    reserved = {name: columns.pop(name) for name in sorted(columns) if name in RIDES_ALONG}
    if reserved:  # names of TRL's own: they reach the reward in one column
        columns[trl.RESERVED_COLUMNS] = canonical_json(reserved)
    return {"prompt": prompt.prompt, "prompt_id": prompt.prompt_id, **reference_columns(pool, index), **columns}


def _verl_files(given: HostInputs) -> Files:
    rendered = given.rendered()
    rows = [
        verl.dataset_row(index, text, encode_reference(given.pool, index)) for index, text in enumerate(rendered.texts)
    ]
    lines = [
        "data.train_files=$HERE/train.parquet",
        "data.val_files=$HERE/train.parquet",
        f"data.max_prompt_length={rendered.longest}",
        f"actor_rollout_ref.model.path={given.model}",
        f'actor_rollout_ref.model.custom_chat_template="{verl.PLAIN_TEMPLATE}"',
        f"critic.model.path={given.model}",
        *verl.config_lines(given.n, "$HERE/vbon_reward.py", given.pool.fingerprint),
    ]
    return {
        "train.parquet": _parquet(rows, given.pool),
        "vbon_reward.py": fill("verl-reward.py", reward=given.reward, n=given.n),
        "run.sh": shell_script("python3 -m verl.trainer.main_ppo", lines),
    }


def _openrlhf_files(given: HostInputs) -> Files:
    rendered, fingerprint = given.rendered(), given.pool.fingerprint
    rows = [openrlhf.dataset_row(text, encode_reference(given.pool, i)) for i, text in enumerate(rendered.texts)]
    lines = [
        "--data.prompt_dataset $HERE/prompts.jsonl",
        "--data.input_key input",
        "--data.label_key label",
        f"--actor.model_name_or_path {given.model}",
        f"--critic.model_name_or_path {given.model}",
        *openrlhf.config_lines(given.n, "$HERE/vbon_reward.py", fingerprint),
    ]
    if fingerprint.max_new_tokens is not None:
        lines.append(f"--data.max_len {rendered.longest + fingerprint.max_new_tokens}")
    return {
        "prompts.jsonl": lines_text(rows),
        "vbon_reward.py": fill(
            "openrlhf-reward.py", reward=given.reward, n=given.n, special_tokens=given.special_tokens
        ),
        "run.sh": shell_script("python3 -m openrlhf.cli.train_ppo_ray", lines),
    }


def _parquet(rows: list[dict[str, Any]], pool: ReferencePool) -> bytes:
    sink = pa.BufferOutputStream()
    try:
        pq.write_table(pa.Table.from_pylist(rows), sink, compression="zstd")
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise VbonError(f"{pool.path}: columns of mixed types do not fit a table ({first_line(error)})") from None
    return sink.getvalue().to_pybytes()


class Host(NamedTuple):
    """One host: the version with which it was run, its files, and the command that starts it."""

    tested: str
    files: Callable[[HostInputs], Files]
    command: str


_HOSTS = {
    "trl": Host("TRL 1.16", _trl_files, "python {out}/train.py"),
    "verl": Host("verl 0.9.1", _verl_files, "bash {out}/run.sh"),
    "openrlhf": Host("OpenRLHF 0.11.2", _openrlhf_files, "bash {out}/run.sh"),
}
