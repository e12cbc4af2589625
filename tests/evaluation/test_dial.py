"""A run with N turned: its estimates against exact sums over all completions of the token-level mixture."""

import json
from pathlib import Path

import numpy as np
import pytest
from tests.evaluation.test_generate import rows_of
from tests.evaluation.test_runs import config_of, make_run

from vbon.cli import main
from vbon.core.best_of_n import log_weight
from vbon.errors import VbonError
from vbon.evaluation.evaluate import evaluate_command

STANDARD_ERRORS = 4.0
FLOOR = 0.02  # nats: what estimating F from 400 samples may add at N of at most 3
N, TO = 3.0, 2.0


def mixed(completions: list[list[int]], ref: np.ndarray, policy: np.ndarray, share: float) -> np.ndarray:
    """log π of the mixture (P, C), from the two policies' conditional distributions along the prefix tree."""

    def conditionals(logprobs: np.ndarray) -> dict[tuple[int, ...], np.ndarray]:
        mass: dict[tuple[int, ...], np.ndarray] = {}
        for index, ids in enumerate(completions):
            for size in range(len(ids) + 1):
                prefix = tuple(ids[:size])
                mass[prefix] = np.logaddexp(mass.get(prefix, -np.inf), logprobs[:, index])
        return {prefix: value - mass[prefix[:-1]] for prefix, value in mass.items() if prefix}

    first, second = conditionals(ref), conditionals(policy)
    raw = {prefix: (1 - share) * first[prefix] + share * second[prefix] for prefix in first}
    norm: dict[tuple[int, ...], np.ndarray] = {}
    for prefix, value in raw.items():
        norm[prefix[:-1]] = np.logaddexp(norm.get(prefix[:-1], -np.inf), value)
    token = {prefix: value - norm[prefix[:-1]] for prefix, value in raw.items()}
    return np.array([sum(token[tuple(ids[:size])] for size in range(1, len(ids) + 1)) for ids in completions]).T


def test_each_n_is_measured_against_its_own_best_of_n(world: Path, tmp_path: Path, exact, completion_ids):
    config = config_of(
        world, tmp_path, make_run(world, tmp_path / "n3"), dial=(TO, N), samples_per_prompt=200, limit=6, batch_size=400
    )
    summary = evaluate_command(config)
    turned, unturned = summary["dials"]
    assert (turned["n"], turned["share"], unturned["share"]) == (TO, 0.5, 1.0)
    truth = exact("pool")
    logprobs = mixed(completion_ids, truth["ref"], truth["policy"], 0.5)
    probs = np.exp(logprobs)
    assert np.allclose(probs.sum(1), 1, atol=1e-6)
    ref = np.exp(truth["ref"]) / np.exp(truth["ref"]).sum(1, keepdims=True)
    lower, upper = (
        np.array([[p[op(r, x)].sum() for x in r] for p, r in zip(ref, truth["rewards"], strict=True)])
        for op in (np.less, np.less_equal)
    )
    log_w = log_weight(np.minimum(lower, upper), np.minimum(upper, 1.0), TO)
    expected = {
        "reward": probs * truth["rewards"],
        "kl_policy_ref": probs * (logprobs - truth["ref"]),
        "kl_policy_bon": probs * (logprobs - truth["ref"] - log_w),
    }
    for key, terms in expected.items():
        values = terms / probs
        spread = np.sqrt((probs * (values - (probs * values).sum(1, keepdims=True)) ** 2).sum(1).sum() / 200) / 6
        found = turned["metrics"][key]["value"]
        allowed = STANDARD_ERRORS * spread + (FLOOR if key == "kl_policy_bon" else 2e-3)
        assert abs(found - terms.sum(1).mean()) < allowed, key
    for key, estimate in unturned["metrics"].items():  # the whole way: the run itself, on the same random numbers
        assert estimate["value"] == pytest.approx(summary["policies"]["n3"]["metrics"][key]["value"], abs=1e-5)
    assert json.loads((tmp_path / "eval" / "evaluation.json").read_text())["dials"] == summary["dials"]


def test_generate_with_the_dial_lies_between_the_two(world: Path, tmp_path: Path):
    run = make_run(world, tmp_path / "n3")
    common = ["generate", "--prompts", str(world / "prompts.jsonl"), "--device", "cpu", "--max-new-tokens", "3"]

    def completions(name: str, *flags: str) -> list[str]:
        out = tmp_path / f"{name}.jsonl"
        assert main([*common, "--num-samples", "50", "--out", str(out), *flags]) == 0
        return [row["completion"] for row in rows_of(out)]

    whole, half = completions("run", "--model", run), completions("half", "--model", run, "--dial", "2")
    assert completions("same", "--model", run, "--dial", "3") == whole
    ref = completions("ref", "--model", str(world / "model"))
    between = [sum(a == b for a, b in zip(half, other, strict=True)) for other in (whole, ref)]
    assert min(between) > sum(a == b for a, b in zip(whole, ref, strict=True))  # shared random numbers


@pytest.mark.parametrize(
    ("changes", "message"), [({"objective": "reward"}, "trained with --objective reward"), ({"n": None}, "is no run")]
)
def test_what_has_no_n_is_refused(world: Path, tmp_path: Path, changes: dict, message: str):
    with pytest.raises(VbonError, match=message):
        evaluate_command(config_of(world, tmp_path, make_run(world, tmp_path / "r", **changes), n=3.0, dial=(2.0,)))


def test_a_plain_model_is_refused(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    files = ["--model", str(world / "model"), "--prompts", str(world / "prompts.jsonl"), "--max-new-tokens", "3"]
    assert main(["generate", *files, "--device", "cpu", "--dial", "2"]) == 2
    assert "is no run" in capsys.readouterr().err
