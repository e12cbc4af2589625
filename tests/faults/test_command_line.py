"""Bad input through the command line: status 2, one line that names what is wrong, and not a file more or less."""

import contextlib
import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.faults.commands import COLLECT, EVALUATE, TRAIN

from vbon import cli

REWARDS = """
import asyncio, sys
nan = lambda prompts, completions: [float("nan")] * len(completions)
short = lambda prompts, completions: [1.0]
def leaves(prompts, completions): sys.exit("enough")
def cancels(prompts, completions): raise asyncio.CancelledError
def greedy(prompts, completions): raise MemoryError("1 EiB")
def torn(prompts, completions): raise RuntimeError("a bug of mine")
"""
REWARD = "--reward reward.py:score"
FRESH = f"{COLLECT} prompts.jsonl --out fresh"
HERE = f"{TRAIN} {REWARD} --out fresh"
RUN = f"{TRAIN} {REWARD} --learning-rate 1e-4"  # a rate so small that the last policy is kept and not the reference
BIG = 10**20
CASES = {
    # Prompts
    f"{COLLECT} none.jsonl {REWARD} --out fresh": "none.jsonl: no such file",
    f"{COLLECT} empty.jsonl {REWARD} --out fresh": "empty.jsonl: holds no prompts",
    f"{COLLECT} mine {REWARD} --out fresh": "mine: is a directory, not a file",
    f"{COLLECT} loop.jsonl {REWARD} --out fresh": "loop.jsonl: no such file",
    f"{FRESH} {REWARD} --prompt-column question": "prompts.jsonl:1: no column 'question' (columns here: prompt)",
    f"{COLLECT} torn.jsonl {REWARD} --out fresh": "torn.jsonl:2: malformed JSON",
    f"{COLLECT} long.jsonl {REWARD} --out fresh": "long.jsonl:2: prompt 'one one",
    # Rewards
    f"{FRESH} --reward none.py:score": "reward none.py:score: there is no file none.py",
    f"{FRESH} --reward reward.py:none": "reward reward.py:none: reward.py has no 'none'",
    f"{FRESH} --reward bad.py:nan": "reward bad.py:nan: returned nan; a reward must be a finite number (completion 0",
    f"{FRESH} --reward bad.py:short": "reward bad.py:short: returned 1 rewards for",
    f"{FRESH} --reward bad.py:leaves": "reward bad.py:leaves: SystemExit: enough at bad.py:5",
    f"{FRESH} --reward bad.py:cancels": "reward bad.py:cancels: CancelledError",
    f"{FRESH} --reward bad.py:greedy": "reward bad.py:greedy: MemoryError: 1 EiB",
    f"{HERE} --reward bad.py:nan --allow-mismatch reward": "reward bad.py:nan: returned nan",
    # Numbers
    f"{HERE} --n 1": "--n is 1.0, but must be greater than 1",
    f"{HERE} --n 0.5": "--n is 0.5, but must be greater than 1",
    f"{HERE} --n inf": "--n is inf",
    f"{FRESH} {REWARD} --seed {BIG}": f"--seed is {BIG}, but must be at most",
    f"{FRESH} {REWARD} --num-samples {BIG}": f"--num-samples is {BIG}, but must be at most",
    f"{HERE} --num-threads 100000": "--num-threads is 100000, but must be at most 1024",
    f"{FRESH} {REWARD} --stop-token-ids 99": "stop token 99 is none of the model's",
    f"{HERE} --stop-token-ids 99 --allow-mismatch stop": "stop token 99 is none of the model's",
    # Pools that do not belong here
    f"{HERE} --pool none": "none: no such pool; make one with `vbon collect`",
    f"{HERE} --pool mine": "mine: not a pool (no manifest.json)",
    f"{HERE} --pool prompts.jsonl": "prompts.jsonl: no such pool",
    f"{HERE} --model run": "training does not match the pool: model is",
    f"{HERE} --temperature 0.7": "training does not match the pool: temperature is 1.0 in the pool but 0.7 here",
    f"{HERE} --max-new-tokens 2": "training does not match the pool: max_new_tokens is 3 in the pool but 2 here",
    f"{HERE} --stop-token-ids 1": "training does not match the pool: stop is",
    f"{HERE} --reward reward.py:scaled": "training does not match the pool: reward is",
    f"{EVALUATE} --out fresh --temperature 1": "unknown flag --temperature",
    f"{EVALUATE} --out fresh --model run": "reference run does not match the pool: model is",
    f"{EVALUATE} --out fresh --reward reward.py:scaled": "reference model does not match the pool: reward is",
    f"{EVALUATE} --out fresh --prompts prompts.jsonl": "held: has no samples of prompt",
    f"{EVALUATE} --out fresh --judge bad.py:nan": "reward bad.py:nan: returned nan",
    # Places
    f"{COLLECT} held.jsonl {REWARD} --out pool": "pool: was started with other settings (--prompts was",
    f"{COLLECT} prompts.jsonl {REWARD} --out mine": "mine: not empty (holds notes.txt); choose another --out",
    f"{COLLECT} prompts.jsonl {REWARD} --out reward.py/x/y": "reward.py/x/y: cannot be created (Not a directory)",
    f"{RUN} --seed 1": "run: was started with other settings (--seed was 0, now it is 1)",
    f"{RUN} --num-iterations 1": "--num-iterations 1: run has done 3 iterations; ask for as many or more",
    f"{HERE} --resume": "unknown flag --resume",
    "evaluate mine --pool held --out fresh --n 2 --device cpu": "mine: neither a run (vbon/run.json) nor a model",
    "report mine --out fresh": "mine: neither a run (vbon/run.json) nor an evaluation",
    f"{EVALUATE} --out run": "--out run: not empty (holds README.md); choose another --out",
    f"{EVALUATE} --out measured --seed 1": "--out measured: was started with other settings (--seed was",
    f"{EVALUATE} --out halved": "halved/evaluation.json: malformed JSON",
    "report run --out mine": "--out mine is a directory; name a file",
    "report run --out rows.jsonl": "--out rows.jsonl: is there already and no page; name another file",
    "generate --model model --prompts rows.jsonl --device cpu --out mine/../rows.jsonl": "holds the prompts; name",
    "inspect pool --json rows.jsonl": "--json rows.jsonl exists and is not a result of vbon; name another file",
    "generate --model model --prompts held.jsonl --max-new-tokens 3 --device cpu --out mine": "mine is a directory",
    "inspect mine": "mine: not a pool (no manifest.json)",
    "inspect pool --n 99": "--n 99: the pool has at most 60 samples of a prompt",
    "import prompts.jsonl --out fresh": "prompts.jsonl:1: needs 'reward'",
    "import rows.jsonl --out pool": "pool: already there; choose another --out",
    "collect --config nul.yaml": "--out is 'a\\x00b', but must be text without a NUL character",
}


@pytest.fixture(scope="module")
def place(ingredients: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a pool, a held-out pool and a run, and much that will not do."""
    folder = tmp_path_factory.mktemp("place")
    for path in ingredients.iterdir():
        (folder / path.name).symlink_to(path)
    files = {
        "bad.py": REWARDS,
        "empty.jsonl": "",
        "torn.jsonl": '{"prompt": "one"}\n{"prompt": \n',
        "long.jsonl": '{"prompt": "one"}\n' + json.dumps({"prompt": "one " * 100_000}) + "\n",
        "rows.jsonl": '{"prompt": "a", "completion": "b", "reward": 1}\n',
        "nul.yaml": 'model: model\nreward: r\nprompts: p\nout: "a\\0b"\n',
        "mine/notes.txt": "not to be touched",
    }
    (folder / "mine").mkdir()
    for name, content in files.items():
        (folder / name).write_text(content)
    (folder / "loop.jsonl").symlink_to("loop.jsonl")
    with contextlib.chdir(folder):
        for line in (
            f"{COLLECT} prompts.jsonl {REWARD} --out pool",
            f"{COLLECT} held.jsonl {REWARD} --out held",
            RUN,
            f"{EVALUATE} --out measured",
        ):
            assert cli.main(line.split()) == 0
    (folder / "halved").mkdir()
    (folder / "halved/evaluation.json").write_bytes((folder / "measured/evaluation.json").read_bytes()[:-9])
    return folder


@pytest.fixture
def inside(place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], tuple[int, str]]]:
    """inside(line) → (exit status, what it said on stderr)."""
    monkeypatch.chdir(place)

    def run(line: str) -> tuple[int, str]:
        heard = io.StringIO()
        with contextlib.redirect_stderr(heard), contextlib.redirect_stdout(io.StringIO()):
            status = cli.main(line.split())
        return status, heard.getvalue()

    yield run


def files(folder: Path) -> dict[str, bytes | None]:
    """Content of every file below; None for a folder or a link."""
    paths = [path for path in folder.rglob("*") if "__pycache__" not in path.parts]
    return {str(one): one.read_bytes() if one.is_file() and not one.is_symlink() else None for one in paths}


@pytest.mark.parametrize(("line", "named"), CASES.items())
def test_bad_input_is_one_line_and_leaves_every_file_as_it_was(inside, place: Path, line: str, named: str):
    before = files(place)
    status, said = inside(line)
    last = said.splitlines()[-1]
    assert status == 2 and last.startswith("vbon: error: ") and named in last, said
    assert "Traceback" not in said and len(last) < 600
    assert files(place) == before


def test_a_reward_that_has_been_mended_goes_on_where_nothing_was_stored(inside, place: Path):
    """The first try failed before any sample was stored: the mended reward, which is another one, is welcome."""
    assert inside(f"{FRESH} --reward bad.py:nan")[0] == 2
    assert inside(f"{FRESH} {REWARD}")[0] == 0
    shard = "shard-00000.parquet"
    assert (place / "fresh" / shard).read_bytes() == (place / "pool" / shard).read_bytes()


def test_a_bug_in_a_library_keeps_its_traceback(tmp_path: Path):
    """RuntimeError is torch's word for want of memory and for much else: only the first is one line."""
    code = (
        "from vbon import cli\n"
        "def stumble(config): raise (MemoryError if 'array' in config.pool else RuntimeError)(config.pool)\n"
        "cli.VERBS['stumble'] = cli.Verb('', '', 'InspectConfig', '__main__:stumble')\n"
        "import sys; sys.exit(cli.main(['stumble', sys.argv[1]]))\n"
    )
    (tmp_path / "stumble.py").write_text(code)
    for text, status in (
        ("shapes differ", 1),
        ("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9 bytes", 2),
    ):
        command = [sys.executable, str(tmp_path / "stumble.py"), text]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == status and ("Traceback" in done.stderr) == (status == 1), done.stderr
