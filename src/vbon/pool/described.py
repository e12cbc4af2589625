"""Properties of a model whose weights are not loaded here (they are on a server or in other processes)."""

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from vbon.artifacts.fingerprint import Fingerprint
from vbon.config.pool import CollectConfig
from vbon.models import load
from vbon.pool.prompt_ids import Room, room_of
from vbon.pool.prompts import Prompt
from vbon.pool.sampling import encode_within
from vbon.rewards import Reward

ROWS_ELSEWHERE = 256


@dataclass(frozen=True)
class DescribedModel:
    """Tokenizer, context length and stop tokens of the model `name`, with the settings for sampling it."""

    name: str
    tokenizer: PreTrainedTokenizerBase
    room: Room
    temperature: float
    max_new_tokens: int
    stop_token_ids: tuple[int, ...]

    @property
    def device(self) -> str:
        """Return the device of a reward model that is loaded only for its name."""
        return "cpu"

    def fingerprint(self, reward: Reward) -> Fingerprint:
        """Compute the fingerprint that the loaded model would have (`sampling.fingerprint_of`)."""
        return Fingerprint(
            model=load.model_fingerprint(self.name),
            tokenizer=load.tokenizer_fingerprint(self.tokenizer),
            chat_template=load.chat_template_fingerprint(self.tokenizer),
            temperature=float(self.temperature),
            max_new_tokens=self.max_new_tokens,
            stop=self.stop_token_ids,
            reward=reward.fingerprint,
        )

    def encode(self, prompts: Sequence[Prompt], source: str) -> list[list[int]]:
        """Encode every prompt.

        Raises:
            VbonError: a prompt leaves no room for a completion; the message names its row.
        """
        return encode_within(self.tokenizer, self.room, self.max_new_tokens, prompts, source)

    def batch_size(self, prompt_ids: Sequence[list[int]]) -> int:
        """Return the number of completions of one request; it is fixed, since the memory is elsewhere."""
        return ROWS_ELSEWHERE


def describe_model(config: CollectConfig) -> DescribedModel:
    """Read tokenizer, context length and stop tokens of the directory or hub id `config.model`, without its weights.

    Raises:
        VbonError: there is no tokenizer.
    """
    tokenizer = load.load_tokenizer(config.model, trust_remote_code=config.trust_remote_code)
    described = load.load_config(config.model, trust_remote_code=config.trust_remote_code)
    return DescribedModel(
        name=config.model,
        tokenizer=tokenizer,
        room=room_of(described),
        temperature=config.temperature,
        max_new_tokens=config.max_new_tokens,
        stop_token_ids=load.configured_stop_token_ids(config.model, described, tokenizer, config.stop_token_ids),
    )
