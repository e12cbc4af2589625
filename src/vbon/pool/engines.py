"""The engines that draw samples for `vbon collect`: the model in this process, vLLM in this process, or a server.

`--engine ray` (`pool.ray_shards`) runs the first of these in the processes of a cluster.
"""

from collections.abc import Sequence
from typing import NamedTuple

from vbon.artifacts.fingerprint import Fingerprint
from vbon.config.pool import CollectConfig
from vbon.models import load
from vbon.models.batch_size import rows_that_fit
from vbon.models.prompts import completion_texts
from vbon.pool.manifest import Plan
from vbon.pool.prompts import Prompt
from vbon.pool.sampled import Drawn, Engine, Samples
from vbon.pool.sampling import Sampler, draw_shard, encode_prompts, fingerprint_of, load_sampler
from vbon.rewards import Reward


class TransformersEngine(NamedTuple):
    """The model in this process: exact draws from given uniforms, with token ids and log-probabilities."""

    name: str
    sampler: Sampler

    @property
    def device(self) -> str:
        """Return the device of the model."""
        return str(self.sampler.model.device)

    def fingerprint(self, reward: Reward) -> Fingerprint:
        """Compute the fingerprint of the samples, in which every setting is known."""
        return fingerprint_of(self.name, self.sampler, reward)

    def encode(self, prompts: Sequence[Prompt], source: str) -> list[list[int]]:
        """Encode every prompt; see `Described.encode`."""
        return encode_prompts(self.sampler, prompts, source)

    def batch_size(self, prompt_ids: Sequence[list[int]]) -> int:
        """Return the number of completions that fit into the memory of the model's device."""
        return rows_that_fit(self.sampler.model, max(map(len, prompt_ids)) + self.sampler.max_new_tokens)

    def draw(
        self, prompts: Sequence[Prompt], prompt_ids: Sequence[list[int]], plan: Plan, seed: int, num_samples: int
    ) -> Drawn:
        """Yield samples batch by batch; see `Engine.draw`."""
        for batch, drawn in draw_shard(self.sampler, prompts, prompt_ids, plan, seed, num_samples):
            yield (
                batch,
                [
                    Samples(completion_texts(self.sampler.tokenizer, prompt_ids[index], one.completion_ids), *one)
                    for index, one in zip(batch, drawn, strict=True)
                ],
            )


def load_engine(config: CollectConfig) -> Engine:
    """Load the engine that `config` names.

    Raises:
        VbonError: its model or server cannot be used.
    """
    if config.engine == "openai":
        from vbon.pool.openai_engine import load_openai_engine

        return load_openai_engine(config)
    if config.engine == "vllm":
        from vbon.pool.vllm_engine import load_vllm_engine

        return load_vllm_engine(config)
    sampler = load_sampler(
        config.model,
        config,
        load.resolve_device(config.device),
        temperature=config.temperature,
        max_new_tokens=config.max_new_tokens,
        extra_stop_token_ids=config.stop_token_ids,
    )
    return TransformersEngine(config.model, sampler)
