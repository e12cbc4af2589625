"""Rows in either form become the pool they describe; a row that does not is named, and nothing is left behind."""

import json
import re
import warnings
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vbon.config.pool import ImportConfig
from vbon.errors import VbonError
from vbon.models import load
from vbon.pool import ReferencePool
from vbon.pool.declarations import parse_declarations
from vbon.pool.importers import ended_ids, import_pool
from vbon.rewards import load_reward

FLAT = [
    {"prompt": "a", "text": "a b", "reward": 1, "response_ids": [1, 0]},
    {"prompt": "c", "text": "c", "reward": -2.5, "response_ids": [0]},
    {"prompt": "a", "text": "aa", "reward": 0.1, "response_ids": [2, 3]},
]


def write_rows(path: Path, rows: list) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def imported(path: Path, *declare: str) -> ReferencePool:
    out = path.parent / f"{path.name}.pool"
    return ReferencePool.open(import_pool(ImportConfig(file=str(path), out=str(out), declare=declare)))


def contents(pool: ReferencePool) -> list:
    return [
        (pool.prompts[index].prompt, pool.completions[row], pool.completion_ids[row], pool.rewards[row])
        for row, index in enumerate(pool.prompt_index)
    ]


def test_flat_rows_are_grouped_by_prompt_and_the_prefix_is_stripped(tmp_path: Path):
    pool = imported(write_rows(tmp_path / "p.jsonl", FLAT), "stop=0")
    assert contents(pool) == [("a", " b", [1, 0], 1.0), ("a", "a", [2, 3], 0.1), ("c", "", [0], -2.5)]
    assert list(pool.finished) == [True, False, True]
    assert pool.manifest.num_samples is None and pool.num_samples.tolist() == [2, 1]


def test_every_form_of_the_same_samples_gives_the_same_pool(tmp_path: Path):
    grouped = [
        {"prompt": "a", "responses": [" b", "a"], "rewards": [1, 0.1], "response_ids": [[1, 0], [2, 3]]},
        {"prompt": "c", "responses": [""], "rewards": [-2.5], "response_ids": [[0]]},
    ]
    renamed = {"responses": "ref_completions", "rewards": "ref_rewards", "response_ids": "completion_ids"}
    as_completion = [{**row, "completion": row["text"][1:]} for row in FLAT]
    forms = {
        "flat": FLAT,
        "completion": [{k: v for k, v in row.items() if k != "text"} for row in as_completion],
        "grouped": grouped,
        "ref_rewards": [{renamed.get(key, key): value for key, value in row.items()} for row in grouped],
    }
    pools = [contents(imported(write_rows(tmp_path / f"{name}.jsonl", rows))) for name, rows in forms.items()]
    pq.write_table(pa.Table.from_pylist(grouped), tmp_path / "p.parquet")
    pools.append(contents(imported(tmp_path / "p.parquet")))
    assert all(pool == pools[0] for pool in pools)


def test_bare_rewards(tmp_path: Path):
    pool = imported(write_rows(tmp_path / "p.jsonl", [{"prompt": "a", "ref_rewards": [1.0, 2.0]}]))
    assert contents(pool) == [("a", None, None, 1.0), ("a", None, None, 2.0)]
    assert not pool.has_completion_ids


def test_text_that_is_the_completion_alone_must_be_declared(tmp_path: Path):
    path = write_rows(tmp_path / "p.jsonl", [{"prompt": "a", "text": "b", "reward": 0}])
    with pytest.raises(VbonError, match=r"p.jsonl:1: 'text' does not begin with the prompt.*--declare text=completion"):
        imported(path)
    assert contents(imported(path, "text=completion")) == [("a", "b", None, 0.0)]


def test_columns_are_kept_when_declared_and_their_loss_is_announced(tmp_path: Path):
    rows = [{"prompt": "a", "completion": "b", "reward": r, "answer": answer} for r, answer in ((0, "x"), (1, "y"))]
    path = write_rows(tmp_path / "p.jsonl", rows)
    with pytest.warns(UserWarning, match="columns not kept: answer"):
        assert len(imported(path)) == 1
    kept = ReferencePool.open(
        import_pool(ImportConfig(file=str(path), out=str(tmp_path / "kept"), declare=("columns=answer",)))
    )
    assert [prompt.columns for prompt in kept.prompts] == [{"answer": "x"}, {"answer": "y"}]


def test_what_is_declared_is_fingerprinted_and_the_rest_unknown(tmp_path: Path, model_dir: Path):
    (tmp_path / "reward.py").write_text("def score(prompts, completions):\n    return [0.0] * len(completions)\n")
    spec = f"{tmp_path}/reward.py:score"
    path = write_rows(tmp_path / "p.jsonl", [{"prompt": "a", "completion_ids": [65, 256], "reward": 0}])
    pool = imported(path, f"model={model_dir}", f"reward={spec}", "temperature=0.7", "max_new_tokens=2")
    tokenizer = load.load_tokenizer(str(model_dir))
    fingerprint = pool.fingerprint
    assert fingerprint.model == load.model_fingerprint(str(model_dir))
    assert fingerprint.tokenizer == load.tokenizer_fingerprint(tokenizer)
    assert fingerprint.reward == load_reward(spec).fingerprint
    assert (fingerprint.temperature, fingerprint.max_new_tokens) == (0.7, 2)
    assert fingerprint.unknown() == ["stop"]
    assert pool.completions[0] == tokenizer.decode([65]) and pool.finished[0] is True  # 256 is the model's EOS


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "a"}, "p.jsonl:2: needs 'reward'"),
        ({"prompt": "a", "reward": 1, "rewards": [1]}, "needs 'reward'"),
        ({"prompt": "a", "reward": "1"}, "reward must be a number, not '1'"),
        ({"prompt": "a", "reward": None}, "needs 'reward'"),
        ({"prompt": "a", "reward": 10**400}, "reward is inf"),
        ({"prompt": "a", "reward": 1, "completion": 3}, "'completion' must be a string, or a message"),
        ({"prompt": "a", "reward": 1, "completion": "b", "text": "ab"}, "has both 'completion' and 'text'"),
        ({"prompt": "a", "reward": 1, "response_ids": [1, -1]}, "token ids must be"),
        ({"prompt": "a", "reward": 1, "response_ids": [1.0]}, "token ids must be"),
        ({"prompt": "a", "reward": 1, "response_ids": [2**31]}, "token ids must be"),
        ({"prompt": "a", "rewards": []}, "'rewards' must be a list that is not empty"),
        ({"prompt": "a", "rewards": [1, None]}, "p.jsonl:2 item 2: reward must be a number, not None"),
        ({"prompt": "a", "rewards": [1, 2], "responses": ["b"]}, "1 responses but 2 rewards"),
        ({"prompt": "a", "rewards": [1], "response_ids": [3]}, "item 1: token ids must be"),
        ({"prompt": 3, "reward": 1}, "column 'prompt' must be a string"),
        ({"reward": 1}, "no column 'prompt'"),
        ({"prompt": [{"role": "user", "content": "a"}], "text": "a", "reward": 1}, "does not begin with the prompt"),
    ],
)
def test_each_bad_row_is_named_and_nothing_is_written(tmp_path: Path, row: dict, message: str):
    path = write_rows(tmp_path / "p.jsonl", [FLAT[0], row])
    with pytest.raises(VbonError, match=message) as caught:
        imported(path)
    assert "p.jsonl:2" in str(caught.value)
    assert list(tmp_path.iterdir()) == [path]


def test_nan_rewards_in_json_and_parquet(tmp_path: Path):
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "a", "reward": 1}\n{"prompt": "a", "reward": NaN}\n')
    with pytest.raises(VbonError, match=r"p.jsonl:2: malformed JSON .NaN"):
        imported(path)
    pq.write_table(pa.Table.from_pylist([{"prompt": "a", "reward": float("nan")}]), tmp_path / "p.parquet")
    with pytest.raises(VbonError, match=r"p.parquet:1: reward is nan"):
        imported(tmp_path / "p.parquet")


def test_an_existing_folder_is_left_alone(tmp_path: Path):
    path = write_rows(tmp_path / "p.jsonl", FLAT)
    pool = imported(path)
    with pytest.raises(VbonError, match="already there; choose another --out"):
        imported(path)
    assert ReferencePool.open(pool.path).rewards.tolist() == pool.rewards.tolist()


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("temperature", "not KEY=VALUE"),
        ("colour=red", "KEY one of temperature, max_new_tokens, stop"),
        ("temperature=0", "greater than 0"),
        ("temperature=nan", "greater than 0"),
        ("temperature=warm", "greater than 0"),
        ("max_new_tokens=0", "at least 1"),
        ("max_new_tokens=1.5", "at least 1"),
        ("stop=", "token ids with commas"),
        ("stop=1,x", "token ids with commas"),
        ("model=", "not empty"),
        ("text=both", "one of prompt"),
    ],
)
def test_each_bad_declaration_is_named(entry: str, message: str):
    with pytest.raises(VbonError, match=message) as caught:
        parse_declarations([entry])
    assert f"--declare {entry}" in str(caught.value)


def test_a_declaration_given_twice():
    with pytest.raises(VbonError, match="temperature is declared twice"):
        parse_declarations(["temperature=1", "temperature=2"])
    assert parse_declarations(["stop=7,0,7"]).stop == (0, 7)


@given(st.data())
def test_mutated_files_import_or_are_one_line(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject):
    base = tmp_path_factory.getbasetemp() / "mutated-import"
    base.mkdir(exist_ok=True)
    content = bytearray("".join(json.dumps(row) + "\n" for row in FLAT).encode())
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(content)))
        content[place : place + data.draw(st.integers(0, 6))] = data.draw(st.binary(max_size=4))
    (base / "p.jsonl").write_bytes(bytes(content))
    out = base / f"pool-{len(list(base.iterdir()))}"
    try:
        pool = ReferencePool.open(import_pool(ImportConfig(file=str(base / "p.jsonl"), out=str(out))))
    except VbonError as error:
        assert "\n" not in str(error) and not out.exists()
    except UserWarning as warning:
        assert "not kept" in str(warning)
    else:
        assert np.isfinite(pool.rewards).all()


ENDS = {
    "as sampled": ([5, 6, 0], [5, 6, 0]),
    "to the limit": ([5, 6, 7, 8], [5, 6, 7, 8]),
    "to the limit, where padding was sampled": ([5, 6, 7, 1], [5, 6, 7, 1]),
    "the end alone": ([0], [0]),
    "padded with the stop token": ([5, 0, 0, 0], [5, 0]),
    "another stop token": ([5, 9], [5, 9]),
    "two stop tokens": ([5, 9, 0], [5, 9]),
}


@pytest.mark.parametrize(("ids", "kept"), ENDS.values(), ids=ENDS.keys())
def test_imported_ids_end_at_their_stop_token(tmp_path: Path, ids, kept):
    path = write_rows(tmp_path / "p.jsonl", [{"prompt": "a", "completion_ids": ids, "reward": 0}])
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        pool = imported(path, "stop=0,9", "max_new_tokens=4")
    assert pool.completion_ids[0] == kept and pool.finished[0] is (kept[-1] in (0, 9))
    assert [str(one.message) for one in said if "cut off" in str(one.message)] == (
        [f"{path}: the padding behind the stop token of 1 completions was cut off"] if kept != ids else []
    )


@given(st.lists(st.integers(0, 3), max_size=6), st.integers(1, 6))
def test_ids_are_kept_exactly_where_they_fit_what_is_declared(ids, most):
    """Stop token 0, padding 1, by a second rule: the text of the ids against a pattern."""
    text = "".join("SP.."[token] for token in ids)
    ended, full = re.fullmatch(r"([^S]*S)[SP]*", text), re.fullmatch(rf"[^S]{{{most}}}", text)
    if ended and len(ended[1]) <= most:
        assert ended_ids(ids, (0,), 1, most, "f:1") == ids[: len(ended[1])]
    elif full and not text.endswith("PP"):
        assert ended_ids(ids, (0,), 1, most, "f:1") == ids
    else:
        with pytest.raises(VbonError, match=r"^f:1: "):
            ended_ids(ids, (0,), 1, most, "f:1")


@pytest.mark.parametrize("names", [("instruction", "generations", "ratings"), ("prompt", "responses", "scores")])
def test_columns_of_other_tools_are_read(tmp_path: Path, names):
    path = write_rows(tmp_path / "p.jsonl", [dict(zip(names, ("a", ["x", "y"], [4, 2.5]), strict=True))])
    pool = imported(path)
    assert pool.prompts[0].prompt == "a" and list(pool.completions) == ["x", "y"] and pool.rewards.tolist() == [4, 2.5]


def test_a_file_without_prompts_names_its_own_columns(tmp_path: Path):
    path = write_rows(tmp_path / "p.jsonl", [{"question": "a", "rewards": [1]}])
    with pytest.raises(VbonError, match=r"p\.jsonl:1: no column 'prompt' \(columns here: question, rewards\)"):
        imported(path)


SAMPLES = [{"prompt": "a", "response": "x", "reward": 1}, {"prompt": "a", "response": "y", "reward": 0}]


@pytest.mark.parametrize(
    "content",
    [
        SAMPLES,
        {"prompt": ["a", "a"], "response": ["x", "y"], "reward": [1, 0]},
        {"prompt": {"0": "a", "1": "a"}, "response": {"0": "x", "1": "y"}, "reward": {"0": 1, "1": 0}},
        {"data": SAMPLES, "schema": {}},
        [row | {"reward": bool(row["reward"])} for row in SAMPLES],
        [row | {"response": {"role": "assistant", "content": row["response"]}} for row in SAMPLES],
        [row | {"response": [{"role": "assistant", "content": row["response"]}]} for row in SAMPLES],
        [row | {"response": {"text": row["response"], "logprob": -1.5}} for row in SAMPLES],
        [{"prompt": "a", "responses": [{"text": "x"}, "y"], "rewards": [True, 0]}],
    ],
    ids=["rows", "lists", "pandas", "table", "booleans", "messages", "conversations", "answers", "grouped"],
)
def test_samples_in_the_forms_that_other_tools_write(tmp_path: Path, content):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(content))
    pool = imported(path)
    assert list(pool.completions) == ["x", "y"] and list(pool.rewards) == [1.0, 0.0]


@pytest.mark.parametrize("content", [{"prompt": ["a"], "reward": [1, 2]}, {"prompt": "a"}, {"a": {"b": 1}, "c": 2}])
def test_an_object_that_is_no_table_is_one_line(tmp_path: Path, content):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(content, indent=1))
    with pytest.raises(VbonError, match="a column of equal length under each name"):
        imported(path)


@pytest.mark.parametrize("ending", [".json", ".jsonl"])
def test_one_row_with_a_chat_is_a_row_and_no_table(tmp_path: Path, ending):
    path = tmp_path / f"rows{ending}"
    path.write_text(json.dumps({"prompt": [{"role": "user", "content": "a"}], "rewards": [1.0]}))
    assert imported(path).prompts[0].prompt == [{"role": "user", "content": "a"}]
