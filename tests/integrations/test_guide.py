"""docs/guides/hosts.md and docs/ecosystem.md: commands parse, code runs, names exist."""

import json
import re
import shlex
from pathlib import Path

import pytest

from vbon import config, flags
from vbon.cli import VERBS

ROOT = Path(__file__).resolve().parents[2]
GUIDE = (ROOT / "docs" / "guides" / "hosts.md").read_text().replace("\\\n", " ")
ECOSYSTEM = (ROOT / "docs" / "ecosystem.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", GUIDE, re.DOTALL)


@pytest.mark.parametrize("command", [line for block in blocks("sh") for line in block.splitlines()])
def test_commands_of_the_guide_are_valid(command: str):
    program, verb, *words = shlex.split(command)
    cls = getattr(config, VERBS[verb].config)
    assert program == "vbon"
    flags.make_config(cls, flags.parse_args(cls, words, prog="vbon"), prog="vbon").validate()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_the_script_of_the_guide_trains(lab, draw_pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As printed, but for the model, the reward and two steps on the CPU."""
    trl = pytest.importorskip("trl", reason="TRL is not installed: pip install -e '.[trl]'")
    monkeypatch.chdir(tmp_path)
    pool = draw_pool(20)
    (tmp_path / "pools").mkdir()
    pool.path.rename(tmp_path / "pools" / "train")
    (tmp_path / "train.jsonl").write_text(json.dumps({"prompt": "start"}) + "\n")
    (script,) = blocks("python")
    ours = {"MODEL": str(lab.model), "reward.py:score": lab.reward("positions")}
    ours["**settings"] = "max_steps=2, use_cpu=True, bf16=False, report_to=[], save_strategy='no', **settings"
    for printed, real in ours.items():
        assert script.count(printed) == 1
        script = script.replace(printed, real)
    names: dict = {}
    exec(compile(script, "guide", "exec"), names)
    assert isinstance(names["trainer"], trl.RLOOTrainer) and names["trainer"].state.global_step == 2


def test_names_in_both_pages_exist():
    for name in re.findall(r"`(?:(tests/[\w/.]+)(?:::(\w+))?)`", GUIDE + ECOSYSTEM):
        path, test = name
        assert f"def {test}" in (ROOT / path).read_text()
    for target in re.findall(r"`make ([\w-]+)`", GUIDE + ECOSYSTEM):
        assert f"\n{target}:" in (ROOT / "Makefile").read_text()
    for verb, words in re.findall(r"`vbon (\w+)([^`]*)`", GUIDE + ECOSYSTEM):
        fields = {flags.spelling(f) for f in vars(getattr(config, VERBS[verb].config))["__dataclass_fields__"].values()}
        assert {word for word in words.split() if word.startswith("--")} <= fields
