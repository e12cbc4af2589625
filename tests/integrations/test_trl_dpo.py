"""Our DPO loss against the installed TRL's own trainer: the same pairs, policy and reference."""

import pytest

trl = pytest.importorskip("trl", reason="TRL is not installed: pip install -e '.[trl]'")

import torch  # noqa: E402
from datasets import Dataset  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: E402

from vbon.core import offline  # noqa: E402

# What TRL and transformers warn of among themselves is theirs.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

FLOAT32 = 2e-6  # of losses near 0.7: TRL sums float32 log-probabilities, the enumeration is float64
PAIRS = [(5, 200), (31, 6), (700, 30), (1, 156)]
"""(chosen, rejected) by their place among the completions: of one to four letters, some that end with EOS, some not."""


def moved(model_folder, seed: int):
    """A policy that is not its reference: every weight a little off."""
    model = AutoModelForCausalLM.from_pretrained(model_folder)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


@pytest.mark.parametrize("kl_coef", [0.1, 1 / 7, 2.0])
def test_dpo_is_the_loss_of_trls_trainer(lab, tmp_path, kl_coef):
    """TRL pads the pairs and takes log-probabilities by itself; ours are those of the enumerated completions."""
    policy, reference = moved(lab.model, seed=1), AutoModelForCausalLM.from_pretrained(lab.model)
    trainer = trl.DPOTrainer(
        model=policy,
        ref_model=reference,
        processing_class=AutoTokenizer.from_pretrained(lab.model),
        args=trl.DPOConfig(output_dir=str(tmp_path), beta=kl_coef, report_to=[], use_cpu=True, bf16=False),
        train_dataset=Dataset.from_list([{"prompt": "start", "chosen": " a", "rejected": " b"}]),
    )
    pairs = [
        {
            "prompt_ids": lab.world.prompt_ids[0],
            "chosen_ids": lab.world.completions[a],
            "rejected_ids": lab.world.completions[b],
        }
        for a, b in PAIRS
    ]
    theirs = trainer.compute_loss(policy, trainer.data_collator(pairs)).detach()
    log_ratio = torch.from_numpy(lab.logprobs(policy)[0] - lab.logprobs(reference)[0])
    chosen, rejected = (log_ratio[[pair[side] for pair in PAIRS]] for side in (0, 1))
    ours = offline.dpo(chosen, rejected, kl_coef)
    assert (chosen - rejected).abs().min() > 0.05  # a policy at its reference has the loss log 2 at any β
    assert float(ours) == pytest.approx(theirs.item(), rel=FLOAT32)
