"""Prompts of a data set of the hub, `id:split`: the datasets library takes a folder for one, so it is read for real."""

import json
from pathlib import Path

import pytest

from vbon.errors import VbonError
from vbon.pool.prompts import make_prompt, read_prompts

pytest.importorskip("datasets")
ROWS = [{"prompt": "a", "answer": 1}, {"prompt": "ü\u2028", "answer": 2}]


@pytest.fixture(autouse=True)
def data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    (tmp_path / "data/set").mkdir(parents=True)
    (tmp_path / "data/set/train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.chdir(tmp_path)


@pytest.mark.filterwarnings("default")  # the library's own
def test_rows_become_prompts():
    assert read_prompts("data/set:train") == [make_prompt(row["prompt"], {"answer": row["answer"]}) for row in ROWS]
    assert len(read_prompts("data/set:train", limit=1)) == 1


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    ("spec", "column", "message"),
    [
        ("data/set:nosuch", "prompt", "data/set:nosuch: neither a file nor a hub dataset that loads"),
        ("data/set:train", "text", r"data/set:train:1: no column 'text' \(columns here: prompt, answer\)"),
    ],
)
def test_each_fault_is_one_line(spec: str, column: str, message: str):
    with pytest.raises(VbonError, match=message) as caught:
        read_prompts(spec, column=column)
    assert "\n" not in str(caught.value)
