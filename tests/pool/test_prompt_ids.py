"""A pool keeps the token ids of its prompts, and every stage follows them: templates and tokenizers may change."""

import dataclasses
import hashlib
import json
import warnings
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from transformers import LlamaConfig, Phi3Config

from vbon.artifacts.parquet_files import parquet_bytes
from vbon.config import CollectConfig
from vbon.errors import Paused, VbonError
from vbon.models.load import load_policy, load_tokenizer, pad_token_id
from vbon.pool import ReferencePool, make_prompt
from vbon.pool.collect import collect
from vbon.pool.prompt_ids import IDS_NAME, Room, check_room, prompt_ids_of, room_of, with_token_ids
from vbon.pool.sampling import check_completion_ids
from vbon.pool.shards import FIRST_NAMES

DATED = "{{ day }}{% for m in messages %}{{ m['content'] }}{% endfor %}"


@pytest.fixture
def chats(model_dir: Path, tmp_path: Path):
    """chats(day) → a config of 6 chats, 2 a shard, whose template prints the day as one that reads the clock does."""
    (tmp_path / "reward.py").write_text("def score(prompts, completions): return [float(len(c)) for c in completions]")
    rows = [{"prompt": [{"role": "user", "content": f"q{index}"}]} for index in range(6)]
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for file in model_dir.iterdir():
        (tmp_path / "model").mkdir(exist_ok=True)
        (tmp_path / "model" / file.name).write_bytes(file.read_bytes())
    template = tmp_path / "model" / "chat_template.jinja"

    def make(day: str, out: str = "pool") -> CollectConfig:
        template.write_text("{% set day = '" + day + "' %}" + DATED)
        return CollectConfig(
            model=str(tmp_path / "model"),
            reward=f"{tmp_path}/reward.py:score",
            prompts=str(tmp_path / "chats.jsonl"),
            out=str(tmp_path / out),
            num_samples=3,
            max_new_tokens=4,
            samples_per_shard=6,
            batch_size=3,
            device="cpu",
        )

    return make


@pytest.fixture
def same_template(monkeypatch: pytest.MonkeyPatch):
    """The source of a template that reads the clock is the same on every day."""
    for module in ("vbon.models.load", "vbon.pool.sampling.load"):
        monkeypatch.setattr(f"{module}.chat_template_fingerprint", lambda tokenizer: "dated")


def test_the_pool_holds_what_it_was_sampled_with(chats):
    config = chats("1 May")
    pool = ReferencePool.open(collect(config, progress=False))
    texts = [load_tokenizer(config.model).decode(list(prompt.token_ids)) for prompt in pool.prompts]
    assert texts == [f"1 Mayq{index}" for index in range(6)]
    assert not (pool.path / IDS_NAME).exists()
    part = pool.select([pool.prompts[4].prompt_id])
    assert part.prompts[0].token_ids == pool.prompts[4].token_ids


def test_on_another_day_the_pools_own_ids_are_used(chats):
    pool = ReferencePool.open(collect(chats("1 May"), progress=False))
    tokenizer = load_tokenizer(chats("2 Jun").model)
    with pytest.warns(UserWarning, match="now reads 6 of 6 prompts as other tokens"):
        ids = prompt_ids_of(tokenizer, pool.prompts, "pool")
    assert ids == [list(prompt.token_ids) for prompt in pool.prompts]
    same = load_tokenizer(chats("1 May").model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert prompt_ids_of(same, pool.prompts, "pool") == ids


def test_a_collection_continued_on_another_day_follows_the_first(chats, same_template):
    whole = collect(chats("1 May", "whole"), progress=False)
    asked = iter([False, True])
    with pytest.raises(Paused):
        collect(chats("1 May"), progress=False, should_pause=lambda: next(asked))
    with pytest.warns(UserWarning, match="6 of 6 prompts as other tokens than when the pool was begun"):
        cut = collect(chats("2 Jun"), progress=False)
    for shard in whole.glob("shard-*"):
        assert shard.read_bytes() == (cut / shard.name).read_bytes()


def test_a_pool_of_the_first_format_opens_and_is_encoded(chats):
    folder = collect(chats("1 May"), progress=False)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["format_version"] = 1
    for shard in manifest["shards"]:
        table = pq.read_table(folder / shard["name"]).select(FIRST_NAMES)
        (folder / shard["name"]).write_bytes(parquet_bytes(table))

        shard["sha256"] = hashlib.sha256((folder / shard["name"]).read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    pool = ReferencePool.open(folder)
    assert [prompt.token_ids for prompt in pool.prompts] == [None] * 6
    tokenizer = load_tokenizer(chats("1 May").model)
    assert prompt_ids_of(tokenizer, pool.prompts, "pool")[0] == tokenizer("1 Mayq0")["input_ids"]


def test_negative_ids_of_a_prompt_are_refused(chats):
    folder = collect(chats("1 May"), progress=False)
    manifest = json.loads((folder / "manifest.json").read_text())
    shard = manifest["shards"][0]
    table = pq.read_table(folder / shard["name"])
    bad = pa.array([[-1], *[None] * (table.num_rows - 1)], pa.list_(pa.int32()))
    content = parquet_bytes(table.set_column(table.column_names.index("prompt_ids"), "prompt_ids", bad))

    (folder / shard["name"]).write_bytes(content)
    shard["sha256"] = hashlib.sha256(content).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(VbonError, match="has no token ids, or negative ones"):
        ReferencePool.open(folder)


PROMPTS = [dataclasses.replace(make_prompt(text), row=row) for row, text in enumerate(["a", "b"], start=1)]


def test_ids_beyond_the_embeddings_are_named():
    with pytest.raises(VbonError, match=r"^p:2: prompt 'b': token 513 is none of the model's 512 \(0 to 511\)"):
        check_room(PROMPTS, [[1, 511], [3, 513]], 4, Room(None, 512), "p")
    check_room(PROMPTS, [[1, 511], [3]], 4, Room(None, 512), "p")


@pytest.mark.parametrize(
    ("lengths", "fits"),
    [((4, 6), True), ((4, 7), False), ((12, 11), True), ((12, 4), False), ((10, 11), False), ((11, 11), True)],
)
def test_prompts_and_completions_stay_on_one_side_of_a_switch(lengths, fits):
    """longrope looks at the longest row of a batch: beyond the switch, all rows get the other embedding."""
    ids = [[1] * length for length in lengths]
    room = Room(context=100, vocabulary=512, switch=10)
    if fits:
        check_room(PROMPTS, ids, 4, room, "p")
        return
    with pytest.raises(VbonError, match="longrope"):
        check_room(PROMPTS, ids, 4, room, "p")


def test_room_is_read_from_the_config():
    factors = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
    phi = Phi3Config(
        vocab_size=64,
        hidden_size=32,
        num_attention_heads=4,
        max_position_embeddings=64,
        original_max_position_embeddings=16,
        pad_token_id=0,
        rope_parameters={**factors, "rope_theta": 10000.0, "original_max_position_embeddings": 16},
    )
    assert room_of(phi) == Room(64, 64, 16)
    assert room_of(LlamaConfig(vocab_size=32, max_position_embeddings=24), 40) == Room(24, 40, None)


def test_ids_travel_with_prompts_and_do_not_make_them_others():
    [first, _] = with_token_ids(PROMPTS, [[1, 2], [3]])
    assert first.token_ids == (1, 2) and first == PROMPTS[0]


def test_completions_beyond_the_embeddings_are_named(chats):
    pool = ReferencePool.open(collect(chats("1 May"), progress=False))
    largest = max(token for ids in pool.completion_ids for token in ids)
    check_completion_ids(pool, largest + 1)
    with pytest.raises(VbonError, match=rf"a completion of prompt 'q\d': token {largest} is none of the model's"):
        check_completion_ids(pool, largest)


def test_padding_that_the_model_has_no_embedding_for_is_not_used(chats):
    config = chats("1 May")
    tokenizer, model = load_tokenizer(config.model), load_policy(config.model)
    tokenizer.add_special_tokens({"pad_token": "<new>"})
    assert tokenizer.pad_token_id == model.get_input_embeddings().num_embeddings
    assert pad_token_id(tokenizer, model) == tokenizer.eos_token_id


def test_long_prompts_are_counted_and_can_be_dropped(chats, tmp_path):
    config = chats("1 May")
    prompts = [{"prompt": "q", "keep": "yes"}, {"prompt": "q " * 400}, {"prompt": "q " * 500}]
    (tmp_path / "long.jsonl").write_text("".join(json.dumps(row) + "\n" for row in prompts))
    changed = dataclasses.replace(config, prompts=str(tmp_path / "long.jsonl"), out=str(tmp_path / "dropped"))
    with pytest.raises(VbonError, match=r"long\.jsonl:2: prompt .* and 1 more are too long"):
        collect(changed, progress=False)
    with pytest.warns(UserWarning, match="2 prompts are too long and dropped, 1 kept"):
        pool = collect(dataclasses.replace(changed, drop_long_prompts=True), progress=False)
    assert [prompt.prompt for prompt in ReferencePool.open(pool).prompts] == ["q"]
