"""Prompt files: every format gives the same prompts; every fault is one line that names file and line."""

import csv
import datetime
import gzip
import hashlib
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vbon.errors import VbonError
from vbon.pool.prompts import check_prompt, make_prompt, read_prompts, reward_columns

TEXTS = ["a", "b c ", "ünïcode \u2028 \x00 end", "line\nbreak", 'quo"te', "x" * 100_000]
VALID = b"""{"prompt": "a", "answer": 1}
{"prompt": [{"role": "user", "content": "hi"}]}
{"prompt": "\xc3\xbc", "z": [1.5]}
"""

text = st.text(st.characters(codec="utf-8"), max_size=20)


def prompt_texts(path: Path, **options) -> list:
    return [prompt.prompt for prompt in read_prompts(path, **options)]


def test_jsonl_gz_json_parquet_and_csv_give_the_same_prompts(tmp_path: Path):
    rows = [{"prompt": value, "answer": str(i)} for i, value in enumerate(TEXTS)]
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    (tmp_path / "p.jsonl").write_bytes(lines)
    (tmp_path / "p.jsonl.gz").write_bytes(gzip.compress(lines))
    (tmp_path / "p.json").write_text(json.dumps(rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "p.parquet")
    for suffix, delimiter in ((".csv", ","), (".tsv", "\t")):
        with open(tmp_path / f"p{suffix}", "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, ["prompt", "answer"], delimiter=delimiter)
            writer.writeheader()
            writer.writerows(rows)
    expected = [make_prompt(row["prompt"], {"answer": row["answer"]}) for row in rows]
    for path in sorted(tmp_path.iterdir()):
        assert read_prompts(path) == expected, path.name


def test_text_file_is_one_prompt_a_line_with_bom_crlf_and_blank_lines(tmp_path: Path):
    path = tmp_path / "p.txt"
    path.write_bytes(b"\xef\xbb\xbfone\r\n\r\ntwo \xe2\x80\xa8 still two\r\nthree")
    assert prompt_texts(path) == ["one", "two \u2028 still two", "three"]
    assert [prompt.row for prompt in read_prompts(path)] == [1, 3, 4]


def test_bom_and_crlf_in_jsonl(tmp_path: Path):
    path = tmp_path / "p.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"prompt": "a"}\r\n\r\n{"prompt": "b"}\r\n')
    assert prompt_texts(path) == ["a", "b"]


def test_chat_messages_from_json_and_parquet(tmp_path: Path):
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi", "name": "ann"}]
    (tmp_path / "p.jsonl").write_text(json.dumps({"prompt": messages}))
    pq.write_table(pa.Table.from_pylist([{"prompt": messages}]), tmp_path / "p.parquet")
    assert prompt_texts(tmp_path / "p.jsonl") == [messages]
    assert prompt_texts(tmp_path / "p.parquet") == [messages]  # Arrow's None for the absent name is dropped
    assert read_prompts(tmp_path / "p.jsonl")[0].is_chat


def test_prompt_id_is_the_documented_hash():
    canonical = '{"columns":{"a":[1,{"k":"ü"}],"b":2},"prompt":"é"}'
    prompt = make_prompt("é", {"b": 2, "a": [1, {"k": "ü"}]})
    assert prompt.prompt_id == hashlib.sha256(canonical.encode("utf-8")).hexdigest()[:16]


@given(text, st.dictionaries(text, st.integers() | text))
def test_prompt_id_ignores_the_order_of_columns_and_nothing_else(prompt: str, columns: dict):
    reordered = dict(reversed(columns.items()))
    assert make_prompt(prompt, columns).prompt_id == make_prompt(prompt, reordered).prompt_id
    assert make_prompt(prompt, columns).prompt_id != make_prompt(prompt, {**columns, "more": 1, "x": 0}).prompt_id


def test_repeated_prompts_are_kept_once_with_a_warning(tmp_path: Path):
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "a", "n": 1}\n{"prompt": "a", "n": 2}\n{"n": 1, "prompt": "a"}\n')
    with pytest.warns(UserWarning, match="1 repeated prompts dropped, 2 kept"):
        assert [prompt.columns for prompt in read_prompts(path)] == [{"n": 1}, {"n": 2}]


def test_limit_stops_reading(tmp_path: Path):
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "a"}\n{"prompt": "b"}\nnot json\n')
    assert prompt_texts(path, limit=2) == ["a", "b"]


def test_reward_columns_are_aligned_with_none_for_absent_ones():
    prompts = [make_prompt("a", {"x": 1}), make_prompt("b", {"y": 2})]
    assert reward_columns(prompts) == {"x": [1, None], "y": [None, 2]}


@given(st.lists(st.dictionaries(st.sampled_from("xyz"), st.integers(0, 9)), min_size=1, max_size=6), st.randoms())
def test_the_columns_that_a_reward_sees_do_not_depend_on_the_batch(tmp_path_factory, columns, random):
    path = tmp_path_factory.mktemp("columns") / "p.jsonl"
    rows = [{"prompt": str(index), **one} for index, one in enumerate(columns)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    prompts = read_prompts(path)
    whole = reward_columns(prompts)
    assert set(whole) == {name for one in columns for name in one}
    batch = random.sample(range(len(prompts)), random.randint(1, len(prompts)))
    expected = {name: [values[index] for index in batch] for name, values in whole.items()}
    assert reward_columns([prompts[index] for index in batch]) == expected
    assert [prompt.prompt_id for prompt in prompts] == [
        make_prompt(str(i), one).prompt_id for i, one in enumerate(columns)
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.jsonl", b"", "holds no prompts"),
        ("p.jsonl", b'{"prompt": "a"}\n{"prompt": \n', "p.jsonl:2: malformed JSON"),
        ("p.jsonl", b'{"prompt": "a"}\n\xff\xfe\n', "p.jsonl:2: not UTF-8"),
        ("p.jsonl", b'{"text": "a", "id": 3}\n', r"p.jsonl:1: no column 'prompt' \(columns here: text, id\)"),
        (
            "p.jsonl",
            b'{"prompt": 3}\n',
            "p.jsonl:1: column 'prompt' must be a string or a list of chat messages, not int",
        ),
        ("p.jsonl", b'{"prompt": null}\n', "not null"),
        ("p.jsonl", b'{"prompt": []}\n', "not an empty list"),
        ("p.jsonl", b'{"prompt": ["a"]}\n', "message 1 must be an object"),
        ("p.jsonl", b'{"prompt": [{"role": "user"}]}\n', "message 1 needs a string 'content'"),
        ("p.jsonl", b'["a"]\n', "p.jsonl:1: must be a JSON object"),
        ("p.jsonl", b'{"prompt": "a", "prompt": "b"}\n', "key 'prompt' appears twice"),
        ("p.jsonl", b'{"prompt": "a", "x": NaN}\n', "p.jsonl:1: malformed JSON .NaN"),
        ("p.jsonl", b'{"prompt": "a", "x": 1e999}\n', "out of range"),
        ("p.jsonl", b'{"prompt": "a", "x": ' + b"9" * 5000 + b"}\n", "p.jsonl:1: malformed JSON"),
        ("p.jsonl", b'{"prompt": "\\ud800"}\n', "p.jsonl:1: holds half of a surrogate pair"),
        ("p.jsonl", b"[" * 200_000 + b"\n", "p.jsonl:1: JSON nested too deeply"),
        ("p.jsonl", b'{"prompt": "a", "completions": 1}\n', "'completions' is the name of a reward argument"),
        ("p.jsonl.gz", b"not gzip", "p.jsonl.gz: cannot be read"),
        ("p.jsonl.gz", gzip.compress(b'{"prompt": "a"}\n' * 99, mtime=0)[:-9], "p.jsonl.gz: cannot be read"),
        ("p.json", b'{\n"prompt": "a"}', "must hold a list"),
        ("p.json", b"", "holds no prompts"),
        ("p.csv", b"prompt,x\na,1,2\n", "p.csv:2: does not have the 2 fields"),
        ("p.csv", b"prompt,x\na\n", "p.csv:2: does not have the 2 fields"),
        ("p.csv", b'prompt\n"open', "malformed CSV"),
        ("p.parquet", b"PAR1 no", "p.parquet: not a readable Parquet file"),
        ("p.docx", b"", "unknown file type '.docx'"),
    ],
)
def test_each_fault_is_one_line_naming_the_place(tmp_path: Path, name: str, content: bytes, message: str):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(VbonError, match=message) as caught:
        read_prompts(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_file_and_directory(tmp_path: Path):
    with pytest.raises(VbonError, match=r"absent.jsonl: no such file"):
        read_prompts(tmp_path / "absent.jsonl")
    with pytest.raises(VbonError, match="is a directory"):
        read_prompts(tmp_path)


def test_parquet_values_that_json_cannot_hold(tmp_path: Path):
    for index, value in enumerate([float("nan"), b"bytes", [float("inf")]]):
        path = tmp_path / f"{index}.parquet"
        pq.write_table(pa.Table.from_pylist([{"prompt": "a", "x": value}]), path)
        with pytest.raises(VbonError, match=r"1: column .x. holds a value that JSON cannot"):
            read_prompts(path)


@given(st.data())
def test_mutated_files_give_prompts_or_one_line(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject):
    """Valid files with bytes cut, replaced or inserted: prompts or a VbonError, never anything else."""
    content = bytearray(VALID)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(content)))
        width = data.draw(st.integers(0, 5))
        content[place : place + width] = data.draw(st.binary(max_size=4))
    suffix = data.draw(st.sampled_from([".jsonl", ".json", ".txt", ".csv", ".tsv", ".parquet", ".jsonl.gz"]))
    path = tmp_path_factory.getbasetemp() / f"mutated{suffix}"
    path.write_bytes(gzip.compress(bytes(content)) if suffix.endswith("gz") else bytes(content))
    try:
        prompts = read_prompts(path)
    except VbonError as error:
        assert "\n" not in str(error) and path.name in str(error)
    except UserWarning as warning:
        assert "repeated" in str(warning)
    else:
        assert prompts


def test_json_lines_under_another_suffix_are_read(tmp_path: Path):
    (tmp_path / "p.json").write_text('{"prompt": "a"}\n{"prompt": "b"}\n')
    assert prompt_texts(tmp_path / "p.json") == ["a", "b"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), b"PNG", datetime.datetime(2024, 5, 1)])
def test_a_column_that_json_cannot_hold_is_named(tmp_path: Path, value):
    pq.write_table(pa.table({"prompt": ["a"], "fine": [1], "price": [value]}), tmp_path / "p.parquet")
    with pytest.raises(VbonError, match=r"p\.parquet:1: column 'price' holds a value that JSON cannot"):
        read_prompts(tmp_path / "p.parquet")


CHAT = [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_a_chat_that_a_cell_holds_as_json_is_a_chat(tmp_path, suffix):
    path = tmp_path / f"prompts{suffix}"
    text = json.dumps(CHAT)
    cell = '"' + text.replace('"', '""') + '"'
    path.write_text(json.dumps({"prompt": text}) if suffix == ".jsonl" else f"prompt\n{cell}\n")
    assert read_prompts(path)[0].prompt == CHAT


@pytest.mark.parametrize("text", ['[{"role": "user"}]', '[{"a": 1}]', "[{]", '[{"role": 1, "content": "x"}]', "[{}]"])
def test_any_other_text_stays_text(text):
    assert check_prompt(text, "here") == text


def test_columns_that_are_not_named_are_left_out(tmp_path):
    """Also one whose values JSON cannot hold; a name that no row has is an error."""
    path = tmp_path / "prompts.parquet"
    rows = [{"prompt": "a", "answer": 1, "date": datetime.datetime(2026, 1, 2)}]
    pq.write_table(pa.Table.from_pylist(rows), path)
    with pytest.raises(VbonError, match=r"column 'date' holds a value that JSON cannot .* as --columns of collect"):
        read_prompts(path)
    assert read_prompts(path, columns=["answer"])[0].columns == {"answer": 1}
    with pytest.raises(VbonError, match="no column 'missing', which --columns names"):
        read_prompts(path, columns=["missing"])


def test_repeated_prompts_are_kept_where_each_is_an_order(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("a\nb\na\n")
    assert [one.prompt for one in read_prompts(path, keep_repeated=True)] == ["a", "b", "a"]
    assert [one.prompt for one in read_prompts(path, keep_repeated=True, limit=2)] == ["a", "b"]
