"""`--save-rollouts` and `--replay`: an update repeated from its checkpoint and its rollouts, bit by bit."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tests.training.runs import rows

from vbon.artifacts.rollouts import SavedRollouts, read_rollouts, write_rollouts
from vbon.errors import VbonError
from vbon.training.train import train

KEPT = {"checkpoint_every": 1, "keep_checkpoints": 9, "save_rollouts": True, "num_iterations": 3}
WAYS = {
    "rloo": {"algorithm": "rloo"},
    "residual": {"algorithm": "residual"},
    "ppo": {"algorithm": "ppo"},
    "shared": {"algorithm": "ppo", "critic": "shared"},
    "grpo": {"algorithm": "grpo"},
    "bond": {"method": "bond"},
    "tail": {"tail": "exponential"},
}


def files(run: Path) -> dict[str, str]:
    """Digests of the files of a run, without what a replay writes."""
    paths = [path for path in run.rglob("*") if path.is_file() and "replay" not in path.parts]
    return {str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def rollouts(run: Path, iteration: int) -> Path:
    return run / f"vbon/rollouts/iteration-{iteration:06d}.safetensors"


@pytest.mark.parametrize("way", WAYS)
def test_a_replayed_update_ends_with_the_bytes_of_the_run(configure, way, capsys):
    config = configure(**KEPT, **WAYS[way])
    run = Path(train(config)["out"])
    before = files(run)
    for iteration in (0, 2):
        result = train(configure(**KEPT, **WAYS[way], replay=str(rollouts(run, iteration))))
        assert result["same_weights_as_the_run"] is True
        again, then = (run / folder / f"step-{iteration + 1:06d}" for folder in ("vbon/replay", "vbon/checkpoints"))
        for name in ("policy.safetensors", "optimizer.safetensors"):
            assert (again / name).read_bytes() == (then / name).read_bytes()
        logged = next(row for row in rows(run) if row["iteration"] == iteration + 1 and "policy_loss" in row)
        assert {key: result[key] for key in logged if key in result} == logged | {"iteration": iteration}
    assert "replayed to" in (said := capsys.readouterr().err) and "the same weights as in the run" in said
    assert files(run) == before


def test_another_learning_rate_shows_in_the_weights_and_leaves_the_run(configure, capsys):
    run = Path(train(configure(**KEPT))["out"])
    before = files(run)
    result = train(configure(**KEPT, replay=str(rollouts(run, 1)), learning_rate=3e-3))
    assert result["same_weights_as_the_run"] is False and "OTHER weights" in capsys.readouterr().err
    assert files(run) == before


def test_saving_changes_nothing_and_a_file_holds_what_was_sampled(configure, tmp_path):
    plain = train(configure(out=str(tmp_path / "plain"), num_iterations=3, checkpoint_every=1, keep_checkpoints=9))
    saving = train(configure(out=str(tmp_path / "saving"), **KEPT))
    saved = [rows(one["out"]) for one in (plain, saving)]
    assert saved[0] == saved[1]
    found = read_rollouts(rollouts(tmp_path / "saving", 1))
    logged = next(row for row in saved[1] if row["iteration"] == 2 and "policy_loss" in row)
    arrays = found.arrays
    assert found.iteration == 1 and arrays["rewards"].mean() == pytest.approx(logged["reward"])
    ratio = ((arrays["old_logprobs"].astype(float) - arrays["ref_logprobs"]) * arrays["completion_mask"]).sum(1)
    assert ratio.mean() == pytest.approx(logged["kl_policy_ref"])
    assert arrays["completion_mask"].sum(1).mean() == pytest.approx(logged["completion_length"])


def test_what_cannot_be_replayed_is_refused_in_one_line(configure, tmp_path):
    run = Path(train(configure(**KEPT | {"keep_checkpoints": 1}))["out"])
    file = rollouts(run, 0)
    with pytest.raises(VbonError, match="step-000000: there is no such checkpoint"):
        train(configure(**KEPT, replay=str(file)))
    saved = read_rollouts(file)
    other = tmp_path / "other.safetensors"
    write_rollouts(other, SavedRollouts(0, saved.kl_coef, tuple(reversed(saved.prompts)), saved.arrays))
    with pytest.raises(VbonError, match="are of other prompts"):
        train(configure(**KEPT, replay=str(other)))
    with pytest.raises(VbonError, match="cannot be read"):
        train(configure(**KEPT, replay=str(tmp_path / "missing")))


def damaged(name: str, content: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    if name == "missing":
        return {key: value for key, value in content.items() if key != "rewards"}
    if name == "type":
        return content | {"old_logprobs": content["old_logprobs"].astype(np.float64)}
    if name == "length":
        return content | {"rewards": content["rewards"][1:]}
    if name == "width":
        return content | {"ref_logprobs": content["ref_logprobs"][:, 1:]}
    return content | {"prompt_index": content["prompt_index"] + 1000}


@pytest.mark.parametrize("name", ["missing", "type", "length", "width", "prompt"])
def test_a_file_of_another_form_is_refused(configure, tmp_path, name):
    run = Path(train(configure(**KEPT | {"num_iterations": 1}))["out"])
    saved, path = read_rollouts(rollouts(run, 0)), tmp_path / "file"
    write_rollouts(path, SavedRollouts(0, saved.kl_coef, saved.prompts, damaged(name, dict(saved.arrays))))
    with pytest.raises(VbonError, match="no rollouts of `vbon train --save-rollouts`"):
        read_rollouts(path)
    save_file(load_file(rollouts(run, 0)), path)  # without the header
    with pytest.raises(VbonError, match="no rollouts"):
        read_rollouts(path)
    path.write_bytes(rollouts(run, 0).read_bytes()[:-9])
    with pytest.raises(VbonError, match="no rollouts"):
        read_rollouts(path)


@pytest.mark.parametrize("changes", [{"algorithm": "offline"}, {"rounds": 2}, {"kl_estimator": "full"}])
def test_combinations_without_rollouts_to_replay_are_refused(configure, changes):
    for ask in ({"save_rollouts": True}, {"replay": "file"}):
        with pytest.raises(VbonError, match="--save-rollouts and --replay need rollouts"):
            configure(**changes, **ask).validate()
