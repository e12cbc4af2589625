"""Exported choices against the order statistics, by enumeration, and against TRL's own reading of the files."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from vbon.config import ExportConfig
from vbon.core.best_of_n import expectation, tie_averaged_weights
from vbon.errors import VbonError
from vbon.pool import Fingerprint, PoolWriter, ReferencePool, make_prompt
from vbon.pool.export import draw_best, draw_pairs, export_command, export_rows
from vbon.pool.manifest import Manifest
from vbon.pool.shards import PromptSamples
from vbon.pool.writer import hash_prompt_ids

REWARDS = np.array([2.0, 0.0, 1.0, 1.0, 5.0, 3.0])
CHAT = [{"role": "user", "content": "Say a number."}]


def config(pool: Path, out: Path, **values) -> ExportConfig:
    return ExportConfig(**{"pool": str(pool), "out": str(out), "best_of": 3, **values})


@pytest.fixture
def pool(tmp_path: Path) -> ReferencePool:
    """Two prompts of text and one chat, whose completions are the texts of their rewards."""
    prompts = [make_prompt("one:"), make_prompt("two:"), make_prompt(CHAT)]
    samples = [
        PromptSamples(prompt, [f" {r + i:g}" for r in REWARDS], [[1]] * 6, REWARDS + i, [-1.0] * 6, [True] * 6)
        for i, prompt in enumerate(prompts)
    ]
    manifest = Manifest(Fingerprint(), "test", len(prompts), hash_prompt_ids(prompts))
    with PoolWriter.create(tmp_path / "pool", manifest) as writer:
        writer.write_shard(0, samples)
        writer.finish()
    return ReferencePool.open(tmp_path / "pool")


def text_of(value) -> str:
    return value if isinstance(value, str) else value[0]["content"]


@pytest.mark.parametrize("n", [2, 3, 6])
def test_draws_have_the_expected_reward_of_the_best_of_n_subset(n: int):
    """The mean of max over all subsets of N is the mean of the choices, exactly so for evenly spread draws."""
    exact = np.mean([max(REWARDS[list(subset)]) for subset in itertools.combinations(range(6), n)])
    random = np.random.default_rng(0)
    many = REWARDS[draw_best(REWARDS, n, 60_000, random)].mean()  # all weights are multiples of 1/60
    assert many == pytest.approx(exact, abs=1e-3) and exact == pytest.approx(expectation(REWARDS, REWARDS, n))
    singles = np.concatenate([draw_best(REWARDS, n, 1, random) for _ in range(20_000)])
    counts = np.bincount(singles, minlength=6) / len(singles)
    np.testing.assert_allclose(counts, tie_averaged_weights(REWARDS, n), atol=4 * 0.5 / np.sqrt(len(singles)))


@pytest.mark.parametrize("n", [2, 3, 6])
def test_pairs_are_the_best_and_worst_of_sets(n: int):
    best, worst = draw_pairs(REWARDS, n, 20_000, np.random.default_rng(1))
    subsets = [REWARDS[list(subset)] for subset in itertools.combinations(range(6), n)]
    kept = [subset for subset in subsets if subset.max() > subset.min()]  # {1, 1} prefers nothing
    error = 4 * REWARDS.std() / np.sqrt(20_000)
    assert REWARDS[best].mean() == pytest.approx(np.mean([s.max() for s in kept]), abs=error)
    assert REWARDS[worst].mean() == pytest.approx(np.mean([s.min() for s in kept]), abs=error)
    assert len(best) / 20_000 == pytest.approx(len(kept) / len(subsets), abs=4 * 0.5 / np.sqrt(20_000))


def test_ties_are_broken_at_random():
    rewards = np.array([0.0, 1.0, 1.0])
    best, _ = draw_pairs(rewards, 3, 4000, np.random.default_rng(2))
    assert abs((best == 1).mean() - 0.5) < 4 * 0.5 / np.sqrt(4000)


def test_the_file_holds_the_order_statistic_expectation(pool: ReferencePool, tmp_path: Path):
    export_command(config(pool.path, tmp_path / "sft.jsonl", draws=1200))
    rows = [json.loads(line) for line in (tmp_path / "sft.jsonl").read_text().splitlines()]
    assert len(rows) == 3600
    mean = np.mean([float(text_of(row["completion"])) for row in rows])
    assert mean == pytest.approx(1 + expectation(REWARDS, REWARDS, 3), abs=5 / 1200)


def test_every_sample_carries_its_weight(pool: ReferencePool, tmp_path: Path):
    rows = list(export_rows(pool, config(pool.path, tmp_path / "w", every_sample=True)))
    total = sum(row["weight"] * float(text_of(row["completion"])) for row in rows)
    assert total / 3 == pytest.approx(1 + expectation(REWARDS, REWARDS, 3), abs=1e-12)
    assert sum(row["weight"] for row in rows) == pytest.approx(3, abs=1e-12)


def test_a_prompts_draws_depend_on_seed_and_prompt_alone(pool: ReferencePool, tmp_path: Path):
    def rows(pool, seed):
        return list(export_rows(pool, config(pool.path, tmp_path / "x", draws=5, seed=seed)))

    part = pool.select([pool.prompts[1].prompt_id])
    assert rows(part, 0) == rows(pool, 0)[5:10] and rows(pool, 0) != rows(pool, 1)


def test_what_cannot_be_exported_is_refused(pool: ReferencePool, tmp_path: Path):
    with pytest.raises(VbonError, match=r"--best-of 7: a prompt of .* has only 6 samples"):
        export_command(config(pool.path, tmp_path / "x", best_of=7))
    (tmp_path / "there").write_text("")
    with pytest.raises(VbonError, match="is there already"):
        export_command(config(pool.path, tmp_path / "there"))
    with pytest.raises(VbonError, match="--every-sample needs --format sft"):
        config(pool.path, tmp_path / "x", every_sample=True, format="dpo").validate()


@pytest.mark.filterwarnings("ignore")  # TRL's and transformers' own
@pytest.mark.parametrize("chat", [False, True], ids=["text", "chat"])
@pytest.mark.parametrize("format_", ["sft", "dpo"])
def test_trl_reads_the_file_as_it_is(pool, model_dir: Path, tmp_path: Path, format_: str, *, chat: bool):
    trl = pytest.importorskip("trl", reason="TRL is not installed: pip install -e '.[trl]'")
    from datasets import load_dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer

    chosen = pool.prompts[2:] if chat else pool.prompts[:2]
    part = pool.select([prompt.prompt_id for prompt in chosen])
    rows = list(export_rows(part, config(pool.path, tmp_path / "x", format=format_, draws=4)))
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    dataset = load_dataset("json", data_files=str(tmp_path / "rows.jsonl"), split="train", cache_dir=str(tmp_path))
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    tokenizer.chat_template = "{% for m in messages %}{{ m.role[0] + ':' + m.content }}{% endfor %}"
    trainer_class, config_class = {"sft": (trl.SFTTrainer, trl.SFTConfig), "dpo": (trl.DPOTrainer, trl.DPOConfig)}[
        format_
    ]
    trainer = trainer_class(
        model=AutoModelForCausalLM.from_pretrained(model_dir),
        args=config_class(output_dir=str(tmp_path / "trl"), report_to=[], use_cpu=True, bf16=False, max_length=None),
        train_dataset=dataset,
        processing_class=tokenizer,
    )
    assert len(trainer.train_dataset) == len(rows)
    batch = next(iter(trainer.get_train_dataloader()))
    assert batch["input_ids"].shape[0] >= 4
