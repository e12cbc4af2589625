"""docs/guides: every command runs, in order, as printed but for sizes; every name and link exists."""

import json
import re
import shlex
from pathlib import Path

import pytest
from tests.integrations.tiny import save_judge, save_policy
from tests.training.runs import LAUNCH

from vbon import cli, config, flags

ROOT = Path(__file__).resolve().parents[2]
GUIDES = {path.stem: path.read_text() for path in (ROOT / "docs" / "guides").glob("*.md")}
RUN_HERE = sorted(
    set(GUIDES)
    - {
        "hosts",
        "ray",
        "rewards",
        "extending",
        "best-of-n-tools",
        "questions",
        "compare-methods",
        "troubleshooting",
        "large-models",
    }
)  # hosts: test_guide.py; the others: their flags below, their code in tests/test_guides.py
# Flags that make a command small, where it does not set them itself.
SMALL = {
    "collect": {"--max-new-tokens": "6", "--device": "cpu"},
    "train": {
        "--num-iterations": "2",
        "--rollouts-per-iteration": "8",
        "--samples-per-prompt": "4",
        "--minibatch-size": "8",
        "--offline-steps": "2",
        "--validation-fraction": "0",
        "--device": "cpu",
        "--tracker": "none",
    },
    "evaluate": {"--samples-per-prompt": "2", "--no-throughput": None, "--device": "cpu"},
    "generate": {"--max-new-tokens": "6", "--device": "cpu"},
}
FEWER = {"--num-samples": "16", "--max-new-tokens": "6"}  # in place of what is printed
OTHER = """
def score(prompts, completions):
    return [-float(len(completion)) for completion in completions]
"""
PROMPTS = ["hi", "a line about rain", "1+1=", "why?"]


def commands(guide: str) -> list[str]:
    """The lines of the blocks of commands; in a block with output, those after a prompt."""
    text = GUIDES[guide].replace("\\\n", " ")
    shell = [line for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
    console = [line for block in re.findall(r"```console\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
    return shell + [line.removeprefix("$ ") for line in console if line.startswith("$ ")]


def sized(words: list[str]) -> list[str]:
    """The words of a `vbon` command with its sizes cut."""
    cut = [FEWER.get(before, word) for before, word in zip(["", *words], words, strict=False)]
    added = {flag: value for flag, value in SMALL.get(words[0], {}).items() if flag not in words}
    return cut + [word for pair in added.items() for word in pair if word is not None]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the guides take for granted: models, prompts, and the Python files that they print."""
    folder = tmp_path_factory.mktemp("guides")
    save_policy(folder / "my-model", "gpt2")
    save_policy(folder / "my-chat-model", "qwen", chat=True)
    save_judge(folder / "my-judge")
    for text in GUIDES.values():
        for name, code in re.findall(r"```python\n# (\w+\.py)\n(.*?)```", text, re.DOTALL):
            (folder / name).write_text(code)
    (folder / "other.py").write_text(
        "def score(prompts, completions):\n    return [-float(len(c)) for c in completions]\n"
    )
    logged = [{"prompt": text, "completions": ["a", "b c"], "rewards": [0.4, 0.9]} for text in PROMPTS]
    write(folder / "logged.jsonl", logged)
    write(folder / "train.jsonl", [{"prompt": text} for text in PROMPTS])
    write(folder / "test.jsonl", [{"prompt": text + "!"} for text in PROMPTS])
    write(folder / "answers.jsonl", [{"prompt": text, "answer": "a"} for text in PROMPTS])
    write(folder / "chat.jsonl", [{"prompt": [{"role": "user", "content": text}]} for text in PROMPTS])
    return folder


def write(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def run(words: list[str]) -> None:
    """A command of a guide: `vbon` here; the launchers' own flags are those with which test_launch.py starts."""
    if words[0] == "vbon":
        assert cli.main(sized(words[1:])) == 0, words
        return
    text = " ".join(words)
    by_file = "accelerate launch --config_file fsdp2.yaml -m vbon "  # ways.py
    for launcher in (f"accelerate launch {LAUNCH} -m vbon ", by_file, "torchrun --nproc_per_node 2 -m -- vbon "):
        if text.startswith(launcher):
            run(["vbon", *shlex.split(text.removeprefix(launcher))])
            return
    assert text == "transformers serve runs/n8"  # tests/training/test_served.py


# The FAQ and the page on processes go on from what the first guide made.
@pytest.mark.parametrize("guide", sorted(RUN_HERE, key=lambda guide: guide != "own-model"))
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_commands_of_a_guide_run(guide: str, workplace: Path, monkeypatch: pytest.MonkeyPatch):
    if guide != "own-model" and not (workplace / "runs/n8").is_dir():
        pytest.skip("needs what the guide own-model makes")
    monkeypatch.chdir(workplace)
    printed = commands(guide)
    assert printed
    for command in printed:
        run(shlex.split(command))


@pytest.mark.parametrize("guide", ["ray", "rewards", "best-of-n-tools", "questions", "compare-methods", "large-models"])
def test_the_commands_of_a_guide_are_valid(guide: str):
    """The guide on Ray needs a cluster (`make test-ray`); the others name rewards and pools that no guide makes."""
    printed = [shlex.split(command) for command in commands(guide)]
    assert any(words[0] == "vbon" for words in printed)
    for _, verb, *words in (words for words in printed if words[0] == "vbon"):
        cls = getattr(config, cli.VERBS[verb].config)
        flags.make_config(cls, flags.parse_args(cls, words, prog=verb), prog=verb).validate()


def test_names_flags_and_links_of_the_guides_exist():
    known = {
        flags.spelling(field)
        for verb in cli.VERBS.values()
        for field in vars(getattr(config, verb.config))["__dataclass_fields__"].values()
    }
    for guide, text in GUIDES.items():
        for target in re.findall(r"\]\(([^)#:]+)\)", text):
            assert (ROOT / "docs/guides" / target).is_file(), (guide, target)
        for path in re.findall(r"`((?:tests|docs|src)/[\w/.]+)", text):
            assert (ROOT / path).exists(), (guide, path)
        for target in re.findall(r"`make ([\w-]+)`", text):
            assert f"\n{target}:" in (ROOT / "Makefile").read_text(), (guide, target)
        for flag in re.findall(r"`(--[a-z-]+)[ `]", text):
            assert flag in known or flag in ("--", "--multi_gpu", "--working-dir"), (guide, flag)
