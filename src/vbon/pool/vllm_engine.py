"""Samples from vLLM in this process (`vllm` extra). It has not been run: the test suite has no GPU."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from vbon.artifacts.fingerprint import Fingerprint
from vbon.config.pool import CollectConfig
from vbon.models.prompts import completion_texts
from vbon.pool.described import DescribedModel, describe_model
from vbon.pool.manifest import Plan
from vbon.pool.prompts import Prompt
from vbon.pool.sampled import Drawn, Samples
from vbon.pool.sampling import seed_for
from vbon.rewards import Reward


@dataclass(frozen=True)
class VllmEngine:
    """vLLM's offline `LLM`: token ids in and out, with log-probabilities at the sampling temperature."""

    llm: Any
    model: DescribedModel
    device: str = "cpu"

    def fingerprint(self, reward: Reward) -> Fingerprint:
        """Compute the fingerprint of the samples, in which every setting is known."""
        return self.model.fingerprint(reward)

    def encode(self, prompts: Sequence[Prompt], source: str) -> list[list[int]]:
        """Encode every prompt; see `Described.encode`."""
        return self.model.encode(prompts, source)

    def batch_size(self, prompt_ids: Sequence[list[int]]) -> int:
        """Return the number of completions of one call."""
        return self.model.batch_size(prompt_ids)

    def draw(
        self, prompts: Sequence[Prompt], prompt_ids: Sequence[list[int]], plan: Plan, seed: int, num_samples: int
    ) -> Drawn:
        """Yield the samples of one prompt at a time; see `Engine.draw`."""
        requests = [{"prompt_token_ids": list(ids)} for ids in prompt_ids]
        params = [self._params(seed_for(prompt.prompt_id, seed), num_samples) for prompt in prompts]
        for position, output in enumerate(self.llm.generate(requests, params, use_tqdm=False)):
            yield [position], [self._samples(prompt_ids[position], output.outputs)]

    def _params(self, seed: int, num_samples: int) -> Any:
        from vllm import SamplingParams

        return SamplingParams(
            n=num_samples,
            temperature=self.model.temperature,
            top_p=1.0,
            top_k=-1,
            max_tokens=self.model.max_new_tokens,  # defaults to 16
            stop_token_ids=list(self.model.stop_token_ids),
            seed=seed,
            logprobs=0,  # of the sampled token alone
            detokenize=False,
        )

    def _samples(self, prompt_ids: Sequence[int], outputs: Sequence[Any]) -> Samples:
        ids = [list(output.token_ids) for output in outputs]
        logprobs = [sum(step[token].logprob for step, token in _steps(output)) for output in outputs]
        finished = [output.finish_reason == "stop" for output in outputs]
        return Samples(completion_texts(self.model.tokenizer, prompt_ids, ids), ids, logprobs, finished)


def load_vllm_engine(config: CollectConfig) -> VllmEngine:
    """Load `--model` into vLLM.

    `processed_logprobs` are taken after division by the temperature; vLLM's default is before it.
    """
    from vllm import LLM

    llm = LLM(
        model=config.model,
        dtype=config.dtype,
        seed=config.seed,
        trust_remote_code=config.trust_remote_code,
        logprobs_mode="processed_logprobs",
        generation_config="vllm",  # not the model's own top_k, top_p and repetition penalty
    )
    return VllmEngine(llm, describe_model(config))


def _steps(output: Any) -> Iterator[tuple[Any, int]]:
    return zip(output.logprobs, output.token_ids, strict=True)
