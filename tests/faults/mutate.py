"""Damage done to valid files: bytes, JSON values and Parquet tables. Every change is a function of the generator."""

import io
import json
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors import torch as safetensors_torch

HTML = "<script>alert(1)</script><img src=x onerror=alert(1)>"
TEXTS = (
    "",
    " ",
    "\x00",
    "a\x00b",
    "\ufeff",
    "\r\n",
    "\n",
    "\u2028",
    "\x85",
    "ünïcödé 🎈",
    "e\u0301",
    "\u202e",
    "\ud800",
    "x" * 100_000,
    HTML,
    "../../etc/passwd",
    "/etc/passwd",
    "shard-00000.parquet",
    "../shard-00000.parquet",
    "NaN",
    "null",
    "true",
    "-1",
    "1e999",
    "%s{0}${jndi:x}",
    "[bold red]",
    "$(touch canary)",
    "`touch canary`",
)
NUMBERS = (0, -1, 1, 2**31, 2**63, -(2**63), 2**64, 10**400, 0.1, -0.0, 1e-320, 1e308, True, False)
VALUES: tuple[Any, ...] = (None, [], {}, [[]], [None], {"": None}, *TEXTS, *NUMBERS)
SNIPPETS = (
    b"\x00",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"\r\n",
    b"\n",
    b"\r",
    b"\x1a",
    b"\xed\xa0\x80",
    b"\xc0\x80",
    b"\\ud800",
    b'"',
    b"'",
    b",",
    b":",
    b"\t",
    b"#",
    b"{",
    b"}",
    b"[",
    b"]",
    b"[" * 20_000,
    b'{"a":' * 20_000,
    b"NaN",
    b"Infinity",
    b"-Infinity",
    b"1e999",
    b"1" * 5_000,
    b"-0",
    b"0x10",
    b"null",
    b"true",
    b"\\u0000",
    b'"prompt":',
    b'"prompt":"x",',
    b"../",
    b"/etc/passwd",
    HTML.encode(),
    b"x" * 100_000,
    b"&a ",
    b"*a",
    b"<<: *a",
    b"? ",
    b"- ",
    b"---\n",
    b"%YAML 9.9\n",
    b"!!python/object/apply:os.system ['touch canary']",
    b"!!python/name:os.system",
    b"!!binary aGk=",
    b"!!timestamp 9999",
    b"2001-12-14t21:59:43.10-05:00",
    b"0o8",
    b"1:60:60",
    b".inf",
    b".nan",
    b"PAR1",
    b"\x1f\x8b",
    b"\x80\x04\x95",
)


def mutate_bytes(content: bytes, random: Random) -> bytes:
    """One to four cuts, flips, insertions, repetitions and moves."""
    changed = bytearray(content)
    for _ in range(random.choice((1, 1, 2, 4))):
        random.choice(_BYTE_CHANGES)(changed, random)
    return bytes(changed)


def mutate_json(content: bytes, random: Random) -> bytes:
    """The same JSON (or JSON lines) but for one or two values, names or items."""
    lines = content.decode().splitlines() if b"\n{" in content else [content.decode()]
    for _ in range(random.choice((1, 1, 2))):
        place = random.randrange(len(lines))
        value = json.loads(lines[place]) if lines[place].strip() else {}
        lines[place] = json.dumps(change_value(value, random), ensure_ascii=random.random() < 0.9)
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def change_value(value: Any, random: Random) -> Any:
    """`value` with something inside it replaced, removed, renamed or added."""
    if isinstance(value, dict) and value and random.random() < 0.9:
        return _change_mapping(dict(value), random)
    if isinstance(value, list) and value and random.random() < 0.8:
        return _change_items(list(value), random)
    return random.choice(VALUES)


def mutate_table(content: bytes, random: Random) -> bytes:
    """The same Parquet file but for one column: other values, another type, another name, or gone."""
    table = pq.read_table(io.BytesIO(content))
    index = random.randrange(table.num_columns)
    change = random.choice(_TABLE_CHANGES)
    try:
        return _parquet(change(table, index, random))
    except (pa.ArrowException, OverflowError, UnicodeEncodeError):  # Parquet cannot hold the value
        return _parquet(table.drop_columns([table.column_names[index]]))


def _parquet(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


def arbitrary(random: Random) -> bytes:
    """Bytes that were never a valid file."""
    parts = [random.choice(SNIPPETS) if random.random() < 0.5 else random.randbytes(random.randrange(64))]
    while random.random() < 0.7:
        parts.append(random.choice((random.randbytes(random.randrange(64)), random.choice(SNIPPETS))))
    return b"".join(parts)


def _place(content: Sequence[Any], random: Random) -> int:
    return random.randrange(len(content) + 1)


def _flip(content: bytearray, random: Random) -> None:
    if content:
        content[random.randrange(len(content))] ^= 1 << random.randrange(8)


def _cut(content: bytearray, random: Random) -> None:
    start = _place(content, random)
    del content[start : start + random.choice((1, 2, 8, 64))]


def _truncate(content: bytearray, random: Random) -> None:
    del content[_place(content, random) :]


def _insert(content: bytearray, random: Random) -> None:
    place = _place(content, random)
    content[place:place] = random.choice(SNIPPETS)


def _overwrite(content: bytearray, random: Random) -> None:
    place = _place(content, random)
    content[place : place + random.choice((1, 4, 16))] = random.choice(SNIPPETS)


def _repeat(content: bytearray, random: Random) -> None:
    start = _place(content, random)
    content[start:start] = content[start : start + random.choice((1, 16, 256))] * random.choice((1, 2, 50))


def _drop_line(content: bytearray, random: Random) -> None:
    lines = bytes(content).splitlines(keepends=True)
    if lines:
        lines.pop(random.randrange(len(lines)))
    content[:] = b"".join(lines)


def _shuffle_lines(content: bytearray, random: Random) -> None:
    lines = bytes(content).splitlines(keepends=True)
    random.shuffle(lines)
    content[:] = b"".join(lines)


def _windows(content: bytearray, random: Random) -> None:
    content[:] = b"\xef\xbb\xbf" + bytes(content).replace(b"\n", b"\r\n")


_BYTE_CHANGES: tuple[Callable[[bytearray, Random], None], ...] = (
    _flip,
    _flip,
    _cut,
    _truncate,
    _insert,
    _insert,
    _overwrite,
    _repeat,
    _drop_line,
    _shuffle_lines,
    _windows,
)


def _change_mapping(value: dict[str, Any], random: Random) -> dict[str, Any]:
    key, kind = random.choice(list(value)), random.random()
    if kind < 0.1:
        del value[key]
    elif kind < 0.2:
        value[random.choice(TEXTS)] = value.pop(key)
    elif kind < 0.3:
        value[random.choice((*value, *TEXTS))] = random.choice(VALUES)
    elif kind < 0.6:
        value[key] = random.choice(VALUES)
    else:
        value[key] = change_value(value[key], random)
    return value


def _change_items(value: list[Any], random: Random) -> list[Any]:
    index, kind = random.randrange(len(value)), random.random()
    if kind < 0.15:
        del value[index]
    elif kind < 0.3:
        value.insert(index, random.choice((value[index], random.choice(VALUES))))
    elif kind < 0.5:
        value[index] = random.choice(VALUES)
    else:
        value[index] = change_value(value[index], random)
    return value


def _other_value(table: pa.Table, index: int, random: Random) -> pa.Table:
    field, values = table.schema.field(index), table.column(index).to_pylist()
    if values:
        values[random.randrange(len(values))] = random.choice((None, *VALUES, float("nan"), float("inf")))
    return table.set_column(index, field, pa.array(values, field.type))


def _other_values(table: pa.Table, index: int, random: Random) -> pa.Table:
    return table.set_column(index, table.column_names[index], pa.array([random.choice(VALUES)] * table.num_rows))


def _other_type(table: pa.Table, index: int, random: Random) -> pa.Table:
    kind = random.choice((pa.string(), pa.binary(), pa.float32(), pa.int8(), pa.large_string(), pa.bool_()))
    return table.set_column(index, table.column_names[index], table.column(index).cast(kind))


def _other_name(table: pa.Table, index: int, random: Random) -> pa.Table:
    names = list(table.column_names)
    names[index] = random.choice((*names, "x", "reward", "", HTML))
    return table.rename_columns(names)


def _other_rows(table: pa.Table, index: int, random: Random) -> pa.Table:
    order = [random.randrange(table.num_rows) for _ in range(random.choice((0, 1, table.num_rows)))]
    return table.take(pa.array(order, pa.int64()))


_TABLE_CHANGES = (_other_value, _other_value, _other_value, _other_values, _other_type, _other_name, _other_rows)


def mutate_tensors(content: bytes, random: Random) -> bytes:
    """The same safetensors file but for its names, shapes, types or values, as broken exports change them."""
    tensors = safetensors_torch.load(content)
    random.choice(_TENSOR_CHANGES)(tensors, random)
    return safetensors_torch.save(tensors, {"format": "pt"})


def _rename_all(tensors: dict[str, torch.Tensor], random: Random) -> None:
    prefix = random.choice(("module.", "_fsdp_wrapped_module.", "_orig_mod.", "model.", "base_model.model.", "x"))
    for name in list(tensors):
        tensors[prefix + name] = tensors.pop(name)


def _drop_tensors(tensors: dict[str, torch.Tensor], random: Random) -> None:
    for name in random.sample(sorted(tensors), random.choice((1, 1, 2, len(tensors)))):
        del tensors[name]


def _add_tensor(tensors: dict[str, torch.Tensor], random: Random) -> None:
    tensors[random.choice(("v_head.weight", "score.weight", "lora_A.weight", "x", ""))] = torch.ones(2)


def _reshape(tensors: dict[str, torch.Tensor], random: Random) -> None:
    name = random.choice(sorted(tensors))
    old = tensors[name]
    ways = (old.flatten(), old[:0], old[:1], old.unsqueeze(0), torch.cat([old, old]), old.T, torch.empty(0), old.sum())
    tensors[name] = random.choice(ways).contiguous().clone()


def _recast(tensors: dict[str, torch.Tensor], random: Random) -> None:
    kind = random.choice((torch.float16, torch.bfloat16, torch.float64, torch.int8, torch.int64, torch.bool))
    for name in random.choice((sorted(tensors), [random.choice(sorted(tensors))])):
        tensors[name] = tensors[name].to(kind)


def _set_values(tensors: dict[str, torch.Tensor], random: Random) -> None:
    name = random.choice(sorted(tensors))
    changed = tensors[name].clone().float()
    changed.view(-1)[: random.choice((1, changed.numel()))] = random.choice((float("nan"), float("inf"), 1e38, 0.0))
    tensors[name] = changed


_TENSOR_CHANGES = (_rename_all, _drop_tensors, _drop_tensors, _add_tensor, _reshape, _reshape, _recast, _set_values)
