"""What the guides show is what their commands print: questions.md line by line, the others by their structure."""

import contextlib
import io
import json
import re
import shlex
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
from tests import stock_server
from tests.enumerable import write_enumerable
from tests.test_demo import TINY

from vbon.cli import main
from vbon.config import DemoConfig
from vbon.demo.story import tell
from vbon.pool.store import ReferencePool

ROOT = Path(__file__).parents[1]
GUIDES = ROOT / "docs" / "guides"
pytestmark = [pytest.mark.recipes, pytest.mark.timeout(1200)]


class Command(NamedTuple):
    """A command of a page, and the lines that the page shows of its output."""

    text: str
    shown: list[str]


def sections(guide: str) -> dict[str, list[Command]]:
    """The commands of each section of a page whose blocks are `console`."""
    found: dict[str, list[Command]] = {}
    for part in (GUIDES / f"{guide}.md").read_text().split("\n## ")[1:]:
        commands: list[Command] = []
        for block in re.findall(r"```console\n(.*?)```", part, re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                if line.startswith("$ "):
                    commands.append(Command(re.sub(r"\s+", " ", line[2:]), []))
                else:
                    commands[-1].shown.append(line)
        found[part.partition("\n")[0]] = commands
    return found


def run(text: str) -> str:
    """What a command prints: `vbon` in this process, all else by the shell."""
    words = shlex.split(text)
    if words[0] == "vbon":
        out = io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            assert main(words[1:]) == 0, out.getvalue()
        return out.getvalue()
    text = re.sub(r"^python -m", f"PYTHONPATH={ROOT}:{ROOT / 'src'} {sys.executable} -m", text)
    text = re.sub(r"\bvbon train", f"{sys.executable} -m vbon train", text)
    done = subprocess.run(["bash", "-c", text], capture_output=True, text=True)
    return done.stdout + done.stderr


def plain(line: str) -> str:
    """A line without frames and without the width of its columns."""
    return re.sub(r"━+", "━", re.sub(r"[│┃|*\s]+", " ", line)).strip()


def structure(line: str) -> str:
    """A line without its numbers."""
    return re.sub(r"-?[\d.,]+(e-?\d+)?", "#", plain(line))


def check_shown(shown: list[str], printed: str, form=plain) -> None:
    """Each line that a page shows is printed, in this order; it may be the beginning of a printed line."""
    lines = [form(line) for line in re.split(r"[\n\r]", printed)]
    for line in filter(None, map(form, shown)):
        place = next((i for i, one in enumerate(lines) if one.startswith(line)), None)
        assert place is not None, f"the page shows {line!r}, but the command printed:\n{printed}"
        lines = lines[place + 1 :]


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the page's commands run: model/, reward.py, prompts.jsonl, judge.py, pools/a, own.jsonl."""
    folder = write_enumerable(tmp_path_factory.mktemp("questions"))
    (judge,) = re.findall(r"```python\n# judge.py\n(.*?)```", (GUIDES / "rewards.md").read_text(), re.DOTALL)
    (folder / "judge.py").write_text(judge)
    (made,) = re.findall(r"`(vbon collect [^`]*)`", (GUIDES / "questions.md").read_text())
    with contextlib.chdir(folder):
        run(" ".join(made.split()) + " --device cpu")
        pool = ReferencePool.open("pools/a")
        rows = zip(pool.prompt_index, pool.completions, pool.completion_ids, pool.rewards, strict=True)
        keys = ("prompt", "completion", "completion_ids", "reward")
        lines = [json.dumps(dict(zip(keys, (pool.prompts[p].prompt, *rest), strict=True))) for p, *rest in rows]
        Path("own.jsonl").write_text("\n".join(lines) + "\n")
    return folder


DEMO = replace(TINY, num_samples=32)
SMALL = {
    "collect": ["--device=cpu"],
    "train": [
        "--num-iterations=1",
        "--rollouts-per-iteration=16",
        "--offline-steps=1",
        "--device=cpu",
        "--tracker=none",
    ],
    "evaluate": ["--samples-per-prompt=2", "--no-throughput", "--device=cpu"],
    "generate": ["--device=cpu"],
}
"""Flags by which the commands of a guide are small."""


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with runs/demo, of the demo's stages at their smallest."""
    folder = tmp_path_factory.mktemp("tools")
    with contextlib.chdir(folder), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tell(DemoConfig(out="runs/demo"), DEMO)
    return folder


def blocks(guide: str) -> list[Command]:
    """The `sh` blocks of a page, as one text each, with the `text` block that follows before the next."""
    found = []
    for language, content in re.findall(r"```(sh|text)\n(.*?)```", (GUIDES / f"{guide}.md").read_text(), re.DOTALL):
        if language == "sh":
            found.append(Command(content.replace("\\\n", " "), []))
        else:
            found[-1].shown.extend(line for line in content.splitlines() if "…" not in line)  # intervals may be points
    return found


def run_small(command: str) -> str:
    """Run a command of a guide with the flags that make it small."""
    words = shlex.split(command)
    return run(shlex.join([*words, *SMALL.get(words[1], [])]))


@pytest.mark.filterwarnings("ignore")
def test_the_tools_print_what_their_guide_shows(demo: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(demo)
    monkeypatch.setenv("COLUMNS", "100")
    shown = 0
    for text, expected in blocks("best-of-n-tools"):
        printed = "".join(run_small(command) for command in text.strip().splitlines())
        check_shown(expected, printed, structure)
        shown += len(expected)
    assert shown > 20


@pytest.mark.filterwarnings("ignore")
def test_the_tail_prints_what_its_guide_shows(demo: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(demo)
    page = (GUIDES / "choosing-n-and-m.md").read_text()
    (command,) = re.findall(r"`(vbon inspect runs/demo[^`]*)`\s+prints", page)
    (table,) = re.findall(r"```text\n(.*?)```", page, re.DOTALL)
    check_shown([line for line in table.splitlines() if "…" not in line], run(command), structure)


SERVED = "Does the server give what was trained?"
IMPORTED = "I already have completions with their rewards. Can I train on them?"


def test_the_questions_are_answered_as_shown(questions: Path, monkeypatch: pytest.MonkeyPatch):
    """In the order of the page: later answers use the pools and runs of earlier ones."""
    monkeypatch.chdir(questions)
    monkeypatch.setenv("COLUMNS", "90")
    answered = {name: commands for name, commands in sections("questions").items() if name != SERVED}
    assert len(answered) == 11
    for text, shown in (command for commands in answered.values() for command in commands):
        check_shown(shown, run(text))


def test_the_question_about_a_server_is_answered_as_shown(questions: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(questions)
    monkeypatch.setenv("COLUMNS", "200")
    for text, _ in sections("questions")[IMPORTED] if not Path("runs/own").is_dir() else ():
        run(text)  # it serves the run of an earlier answer
    start, *commands = sections("questions")[SERVED]
    assert start == ("transformers serve runs/own --port 8000 &", [])
    with stock_server.transformers_serve(Path("runs/own"), questions) as url:
        for text, shown in commands:
            check_shown(shown, run(text.replace("http://127.0.0.1:8000/v1", url)), structure)
    summary = json.loads(Path("evals/served/evaluation.json").read_text())
    assert summary["rank_test"]["p_value"] > 1e-3
