"""Whether two commits compute the same bytes: `python benchmarks/same_bytes.py --base COMMIT [--out DIR]`.

The same small seeded commands run on the sources of COMMIT and on the sources of this directory: collect, train with
every method, warm start, critic and LoRA, evaluate and report, on a tiny model that is built once. What they computed
is compared: rows of Parquet files, tensors of safetensors files, rows of JSON Lines files without their clock times,
the fingerprint of a pool, the numbers of a run and of an evaluation, the figures and tables of the report; settings
are not. One line for each artifact says "same" or how many differences there are and which is the first; the exit
status is 1 on a difference. What only this directory has, an artifact or a key, is no difference. It takes about one
minute.
"""

import argparse
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

ROOT = Path(__file__).parents[1]
WORDS = ["<eos>", "<pad>", *"abcdefghij"]
REWARD = """
def score(prompts, completions):
    return [c.count("a") + len(set(c + p)) / 7 for p, c in zip(prompts, completions)]
"""
COLLECT = "collect --model ../inputs/model --reward ../inputs/reward.py:score --max-new-tokens 6 --device cpu"
TRAIN = (
    "train --pool pool --model ../inputs/model --reward ../inputs/reward.py:score --n 4 --num-iterations 4 "
    "--rollouts-per-iteration 32 --samples-per-prompt 4 --minibatch-size 16 --offline-steps 8 --offline-batch-size 16 "
    "--validation-every 2 --validation-fraction 0.25 --checkpoint-every 2 --device cpu --num-threads 1 --tracker none"
)
TRAININGS = {
    "ppo": "--algorithm ppo",
    "ppo-shared": "--algorithm ppo --critic shared",
    "ppo-offline-start": "--algorithm ppo --warm-start offline",
    "ppo-critic-start": "--algorithm ppo --warm-start critic",
    "ppo-order": "--algorithm ppo --tie-rule order --whiten-advantages",
    "rloo": "--algorithm rloo --warm-start none",
    "rloo-full": "--algorithm rloo --kl-estimator full --warm-start offline --offline-loss listwise",
    "grpo": "--method grpo",
    "bound": "--method vbon-bound",
    "bond": "--method bond",
    "kl-rl": "--method kl-rl --kl-coef 0.3",
    "quantile": "--method quantile",
    "refine-tail": "--refine-tail --n 64",
    "rounds": "--rounds 2",
    "lora": "--lora-rank 2",
    **{name: f"--method {name}" for name in ("bon-sft-all", "bon-sft", "regression", "listwise", "dpo", "bonbon")},
}
RUNS = "ppo rloo lora dpo"
COMMANDS = [
    f"{COLLECT} --prompts ../inputs/prompts.jsonl --num-samples 64 --batch-size 64 --samples-per-shard 256 --out pool",
    f"{COLLECT} --prompts ../inputs/heldout.jsonl --num-samples 64 --seed 1 --out heldout",
    *(f"{TRAIN} {flags} --out {name}" for name, flags in TRAININGS.items()),
    f"evaluate {RUNS} --pool heldout --n 4 --samples-per-prompt 8 --no-throughput --device cpu --out eval",
    f"report {RUNS} eval --out report.html",
]
# One process imports the package once and forks a process for each command.
RUNNER = """
import json, os, sys, torch, vbon.cli, vbon.pool.collect, vbon.training.train, vbon.evaluation.evaluate
for command in json.load(sys.stdin):
    print("vbon", command, flush=True)
    child = os.fork()
    if not child:
        status = 1
        try:
            torch.set_num_threads(1)
            status = vbon.cli.main(command.split())
        finally:
            sys.stdout.flush()
            os._exit(status)
    if os.waitpid(child, 0)[1]:
        sys.exit(f"failed: vbon {command}")
"""
CLOCK = re.compile(r"seconds|_at$|^time|per_second")
RECORDS = ("settings", "config", "version", "created_by", "warnings")


def make_inputs(folder: Path) -> None:
    """A seeded GPT-2 over ten letters, a reward, and prompts to train and to evaluate on."""
    torch.manual_seed(3)
    config = GPT2Config(
        vocab_size=len(WORDS), n_positions=24, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
    )
    GPT2LMHeadModel(config).save_pretrained(folder / "model")
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<pad>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<eos>", pad_token="<pad>")
    tokenizer.save_pretrained(folder / "model")
    (folder / "reward.py").write_text(REWARD)
    for name, last in (("prompts", "abcdefgh"), ("heldout", "ij")):
        prompts = [f"{one} {other}" for one in last for other in "abc"]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))


def run_commands(side: Path) -> None:
    """Run every command in `side`, on the sources in `side`/src; its output goes to `side`/log."""
    environment = {**os.environ, "PYTHONPATH": str(side / "src"), "OMP_NUM_THREADS": "1"}
    runner, commands = [sys.executable, "-c", RUNNER], json.dumps(COMMANDS)
    with open(side / "log", "w") as log:
        done = subprocess.run(runner, input=commands, text=True, cwd=side, env=environment, stdout=log, stderr=log)
    if done.returncode:
        sys.exit(f"{(side / 'log').read_text()[-2000:]}\n{side.name}: a command failed")


def read(path: Path) -> Any:
    """What a file holds of what was computed: nested dicts and lists; None for a file that is not compared."""
    if path.suffix == ".parquet":
        return pyarrow.parquet.read_table(path).to_pylist()
    if path.suffix == ".safetensors":
        tensors = load_file(path)
        return {
            name: [str(one.dtype), list(one.shape), hashlib.sha256(one.numpy().tobytes()).hexdigest()]
            for name, one in tensors.items()
        }
    if path.suffix == ".jsonl":
        return [timeless(json.loads(line)) for line in path.read_text().splitlines()]
    if path.name == "run.json":
        return timeless(json.loads(path.read_text())["result"])
    if path.name == "evaluation.json":
        return timeless(json.loads(path.read_text()))
    if path.name == "manifest.json":
        return json.loads(path.read_text())["fingerprint"]
    if path.suffix == ".html":
        tables = re.findall(r"<table.*?</table>", path.read_text(), re.DOTALL)
        cells = [re.findall(r"<td.*?</td>", table, re.DOTALL) for table in tables if "Every setting" not in table]
        return {"tables": cells, "figures": re.findall(r"<svg.*?</svg>", path.read_text(), re.DOTALL)}
    return None


def timeless(value: Any) -> Any:
    """`value` without the entries that a clock or a record of settings gave."""
    if isinstance(value, list):
        return [timeless(one) for one in value]
    if isinstance(value, dict):
        return {key: timeless(one) for key, one in value.items() if not CLOCK.search(key) and key not in RECORDS}
    return value


def differences(base: Any, present: Any, where: str = "") -> Iterator[str]:
    """Each place where `present` differs from `base`; a key that only `present` has is none."""
    if isinstance(base, dict) and isinstance(present, dict):
        for key, value in base.items():
            yield from differences(value, present.get(key), f"{where}/{key}")
    elif isinstance(base, list) and isinstance(present, list) and len(base) == len(present):
        for index, pair in enumerate(zip(base, present, strict=True)):
            yield from differences(*pair, f"{where}/{index}")
    elif base != present and not (base != base and present != present):  # NaN equals NaN here
        yield f"{where or '/'}: {str(base)[:60]} is now {str(present)[:60]}"


def compare(base: Path, present: Path) -> int:
    """Print a line for each artifact; return how many differ."""
    count = 0
    for path in sorted(
        path for path in base.rglob("*") if path.is_file() and "src" not in path.relative_to(base).parts
    ):
        before, counterpart = read(path), present / path.relative_to(base)
        if before is not None:
            found = list(differences(before, read(counterpart) if counterpart.exists() else "nothing"))
            said = f"different  {path.relative_to(base)}: {len(found)}, the first {found[0]}" if found else None
            print(said or f"same       {path.relative_to(base)}")
            count += bool(found)
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", required=True, help="the commit to compare with")
    parser.add_argument("--out", type=Path, help="keep both results in this new directory")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vbon-same-bytes-") as temporary:
        out = (arguments.out or Path(temporary)).resolve()
        base, present = out / "base", out / "present"
        base.mkdir(parents=True)
        archive = subprocess.run(["git", "archive", arguments.base, "src"], cwd=ROOT, check=True, capture_output=True)
        with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as sources:
            sources.extractall(base, filter="data")
        shutil.copytree(ROOT / "src", present / "src")
        make_inputs(out / "inputs")
        for side in (base, present):
            run_commands(side)
        count = compare(base, present)
    print(f"{count} artifacts differ from {arguments.base}")
    sys.exit(count > 0)


if __name__ == "__main__":
    main()
