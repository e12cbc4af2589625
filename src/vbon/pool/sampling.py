"""Drawing of reference samples: the division of prompts into batches, the uniforms of each prompt, and the sampler.

Everything here is a function of the settings and of (seed, prompt_id): an interrupted collection repeats the draws that
were lost and no others, and the draws of a prompt do not depend on the prompts in its batch.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from vbon.artifacts.fingerprint import Fingerprint
from vbon.core.seeds import generator
from vbon.errors import VbonError
from vbon.models import load
from vbon.models.generate import NonFiniteLogits, generate
from vbon.pool.manifest import Plan
from vbon.pool.prompt_ids import Room, check_room, check_vocabulary, prompt_ids_of, room_of
from vbon.pool.prompts import Prompt, shorten
from vbon.pool.store import ReferencePool
from vbon.rewards import Reward


class Draws(NamedTuple):
    """The M samples of one prompt before scoring."""

    completion_ids: list[list[int]]
    ref_logprobs: list[float]
    finished: list[bool]


class Sampler(NamedTuple):
    """A model and the settings for sampling it."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    temperature: float
    max_new_tokens: int
    stop_token_ids: tuple[int, ...]


def load_sampler(
    name: str,
    config: load.Command,
    device: torch.device,
    *,
    temperature: float | None,
    max_new_tokens: int | None,
    stop_token_ids: Sequence[int] | None = None,
    extra_stop_token_ids: Sequence[int] = (),
) -> Sampler:
    """Load a model and its tokenizer; a setting that is None comes from the model's generation config.

    Args:
        name: directory or hub id of the model.
        config: gives the dtype of the weights, and whether Python code that comes with the model may run.
        device: device of the model.
        temperature: sampling temperature; 1.0 if neither the caller nor the model gives one.
        max_new_tokens: the largest number of tokens of a completion.
        stop_token_ids: all tokens that end a completion.
        extra_stop_token_ids: tokens that end a completion in addition to the model's own; used without
            `stop_token_ids`.

    Returns:
        The model with its settings.

    Raises:
        VbonError: there is no such model, a stop token is not in its vocabulary, or `max_new_tokens` is not given
            anywhere.
    """
    model = load.load_configured_policy(name, config, device)
    tokenizer = load.load_tokenizer(name, trust_remote_code=config.trust_remote_code)
    own = model.generation_config
    temperature = temperature or getattr(own, "temperature", None) or 1.0
    max_new_tokens = max_new_tokens or getattr(own, "max_new_tokens", None)
    if max_new_tokens is None:
        raise VbonError(f"{name}: its generation_config.json names no length; give --max-new-tokens")
    if stop_token_ids is None:
        stop_token_ids = load.stop_token_ids(model, tokenizer, extra_stop_token_ids)
    return Sampler(model, tokenizer, float(temperature), int(max_new_tokens), tuple(stop_token_ids))


def fingerprint_of(name: str, sampler: Sampler, reward: Reward) -> Fingerprint:
    """Compute the fingerprint of a pool made by this sampler, whose model was loaded from `name`, and this reward."""
    return Fingerprint(
        model=load.model_fingerprint(name),
        tokenizer=load.tokenizer_fingerprint(sampler.tokenizer),
        chat_template=load.chat_template_fingerprint(sampler.tokenizer),
        temperature=float(sampler.temperature),
        max_new_tokens=sampler.max_new_tokens,
        stop=tuple(sorted(sampler.stop_token_ids)),
        reward=reward.fingerprint,
    )


def make_plan(num_samples: int, batch_size: int, samples_per_shard: int = 4096) -> Plan:
    """Divide the work: batches of whole prompts with up to `batch_size` samples, and shards of whole batches.

    A prompt with more than `batch_size` samples takes several batches.
    """
    prompts_per_batch = max(1, batch_size // num_samples)
    batches_per_shard = max(1, samples_per_shard // (num_samples * prompts_per_batch))
    return Plan(batch_size, prompts_per_batch, prompts_per_batch * batches_per_shard)


def encode_prompts(sampler: Sampler, prompts: Sequence[Prompt], source: str) -> list[list[int]]:
    """Return the token ids of every prompt. `source` is the file or pool of the prompts, for messages.

    Raises:
        VbonError: the model does not take a prompt with a completion; the message names its row.
    """
    return encode_within(sampler.tokenizer, room_of_model(sampler.model), sampler.max_new_tokens, prompts, source)


def encode_within(
    tokenizer: PreTrainedTokenizerBase, room: Room, max_new_tokens: int, prompts: Sequence[Prompt], source: str
) -> list[list[int]]:
    """Return the token ids of every prompt: those that came with it, else by the tokenizer (`pool.prompt_ids`).

    Args:
        tokenizer: the model's tokenizer.
        room: what the model takes.
        max_new_tokens: the largest number of tokens of a completion.
        prompts: the prompts.
        source: their file or pool, for messages.

    Returns:
        Token ids of each prompt.

    Raises:
        VbonError: the model does not take a prompt with a completion; the message names its row.
    """
    ids = prompt_ids_of(tokenizer, prompts, source)
    check_room(prompts, ids, max_new_tokens, room, source)
    return ids


def room_of_model(model: PreTrainedModel) -> Room:
    """Limits of a loaded model's input."""
    embeddings: Any = model.get_input_embeddings()
    return room_of(model.config, embeddings.num_embeddings)


def check_completion_ids(pool: ReferencePool, vocabulary: int | None) -> None:
    """Raise VbonError naming a prompt of the pool with a completion of ids that the model has no embedding for."""
    ids = pc.list_flatten(pool.completion_ids.values)
    if vocabulary is None or not len(ids) or 0 <= pc.min(ids).as_py() <= pc.max(ids).as_py() < vocabulary:
        return
    for row, completion in enumerate(pool.completion_ids):
        prompt = pool.prompts[pool.prompt_index[row]]
        check_vocabulary(completion or (), vocabulary, f"{pool.path}: a completion of prompt {shorten(prompt.prompt)}")


def uniforms_for(prompt_id: str, seed: int, num_samples: int, max_new_tokens: int) -> NDArray[np.float64]:
    """Draw the uniforms from which a prompt's completions are made; the first rows do not depend on M.

    Args:
        prompt_id: id of the prompt, hexadecimal.
        seed: seed of the pool.
        num_samples: M, the number of completions.
        max_new_tokens: T, the largest number of tokens of a completion.

    Returns:
        float64 (M, T) in [0, 1).
    """
    return generator(seed, int(prompt_id, 16)).random((num_samples, max_new_tokens))


def seed_for(prompt_id: str, seed: int) -> int:
    """Compute the seed of a prompt's first request; the k-th sample adds k to it. It fits into 31 bits."""
    return int(generator(seed, int(prompt_id, 16)).integers(2**30))


def draw_shard(
    sampler: Sampler,
    prompts: Sequence[Prompt],
    prompt_ids: Sequence[list[int]],
    plan: Plan,
    seed: int,
    num_samples: int,
) -> Iterator[tuple[list[int], list[Draws]]]:
    """Draw the samples of a shard, batch by batch; prompts of similar length are sampled together.

    Args:
        sampler: model and settings.
        prompts: the prompts of the shard.
        prompt_ids: token ids of each prompt.
        plan: sizes of the batches.
        seed: seed of the pool.
        num_samples: M, completions of each prompt.

    Yields:
        Positions of the prompts in a batch, and the draws of each.
    """
    order = sorted(range(len(prompts)), key=lambda index: len(prompt_ids[index]))
    for start in range(0, len(order), plan.prompts_per_batch):
        batch = order[start : start + plan.prompts_per_batch]
        uniforms = np.stack(
            [uniforms_for(prompts[i].prompt_id, seed, num_samples, sampler.max_new_tokens) for i in batch]
        )
        try:
            yield batch, _draw_batch(sampler, [prompt_ids[i] for i in batch], uniforms, plan.batch_size)
        except NonFiniteLogits as error:
            where = shorten(prompts[batch[error.prompt]].prompt)
            raise VbonError(str(NonFiniteLogits(error.prompt, error.dtype, where))) from None


def _draw_batch(
    sampler: Sampler, prompt_ids: Sequence[list[int]], uniforms: NDArray[np.float64], most_samples: int
) -> list[Draws]:
    draws = [Draws([], [], []) for _ in prompt_ids]
    for first in range(0, uniforms.shape[1], most_samples):
        chunk = uniforms[:, first : first + most_samples]
        completions = generate(
            sampler.model,
            prompt_ids,
            torch.from_numpy(np.ascontiguousarray(chunk)),
            temperature=sampler.temperature,
            stop_token_ids=sampler.stop_token_ids,
            pad_token_id=load.pad_token_id(sampler.tokenizer, sampler.model),
        )
        logprobs = (completions.logprobs.double() * completions.mask).sum(1).tolist()
        rows = zip(completions.rows(), logprobs, completions.finished.tolist(), strict=True)
        for index, (ids, logprob, finished) in enumerate(rows):
            for values, value in zip(draws[index // chunk.shape[1]], (ids, logprob, finished), strict=True):
                values.append(value)
    return draws
