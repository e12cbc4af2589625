"""The example configs of the pages: each is read as `--config` reads it, and its values are allowed."""

import re
from pathlib import Path

import pytest

from vbon import config, flags
from vbon.cli import VERBS
from vbon.config.sweep import read_sweep

DOCS = Path(__file__).resolve().parents[2] / "docs"


def only_block(page: Path) -> str:
    (block,) = re.findall(r"```yaml\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    return block


@pytest.mark.parametrize("verb", VERBS)
def test_the_example_config_of_a_verb_is_valid(verb: str, tmp_path: Path):
    path, cls = tmp_path / "example.yaml", getattr(config, VERBS[verb].config)
    path.write_text(only_block(DOCS / "reference" / "cli" / f"{verb}.md"))
    flags.make_config(cls, config.read_values(cls, str(path)), prog=verb).validate()


def test_the_sweep_of_the_guide_is_valid(tmp_path: Path):
    path = tmp_path / "sweep.yaml"
    path.write_text(only_block(DOCS / "guides" / "compare-methods.md"))
    sweep = read_sweep(str(path))
    assert set(sweep.methods) == {"vbon", "kl-rl", "bon-sft-all"} and sweep.n == (2.0, 4.0)


def test_the_list_of_verbs_is_complete():
    text = (DOCS / "reference" / "cli" / "index.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| \[([a-z]+)\]\(\1\.md\) \| (.*) \|$", text, re.MULTILINE) == [
        (verb, one.summary) for verb, one in VERBS.items()
    ]
