"""The memory and the disk that a command will need, computed from a model's numbers: no weights are loaded.

What lies in memory from start to end is added up; of the phases that follow each other the largest counts. All sizes
are bytes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from vbon.models.batch_size import BYTES_PER_LOGIT, FREE_SHARE, LIMITS, Limit, Use, power_of_two

CHUNKS_OF_LOGITS = (
    4  # alive at once in the backward pass: logits, their float32 softmax, its gradient, the head's input
)
ADAM_MOMENTS = 2
GIGABYTE = 10**9


class Item(NamedTuple):
    """A line of a plan."""

    what: str
    bytes: float


@dataclass(frozen=True, kw_only=True)
class Size:
    """The numbers of a model in training that memory depends on.

    Args:
        parameters: all weights of the policy without adapters.
        adapters: weights of its adapters, which are in float32; 0 where all weights are trained.
        critic: weights of a critic's own; with adapters its trunk is the policy's.
        critic_adapters: weights of the critic's adapters and head.
        itemsize: bytes of a weight.
        cached_values: keys and values that one token adds to the cache, numbers.
        vocab_size: V.
        kept_per_token: bytes that a training pass keeps of one token for its gradient; 0 where nothing is trained.
    """

    parameters: int
    adapters: int = 0
    critic: int = 0
    critic_adapters: int = 0
    itemsize: int
    cached_values: int
    vocab_size: int
    kept_per_token: int = 0

    @property
    def trained(self) -> int:
        """Bytes of the weights that are trained."""
        if self.adapters:
            return 4 * (self.adapters + self.critic_adapters)
        return self.itemsize * (self.parameters + self.critic)


@dataclass(frozen=True, kw_only=True)
class Work:
    """The settings of a command that memory depends on.

    Args:
        device: "cpu" or "cuda", which decides how many rows go through the model together.
        longest: tokens of the longest row, prompt and completion.
        rollouts: completions of an iteration in one process, or of a batch of samples.
        minibatch: completions of an optimizer step in one process; 0 where nothing is trained.
        processes: processes that train together.
        in_shards: whether these share the weights in training, by FSDP, or each hold them all.
        mixed: whether matrix products are in bfloat16 beside weights in float32.
        beside: further items that are held all the time: the process itself, a reward model, a pool.
    """

    device: str
    longest: int
    rollouts: int
    minibatch: int = 0
    processes: int = 1
    in_shards: bool = False
    mixed: bool = False
    beside: tuple[Item, ...] = ()


@dataclass(frozen=True)
class MemoryPlan:
    """A memory plan: `always` is held from start to end, and beside it one phase after another."""

    always: tuple[Item, ...]
    phases: Mapping[str, tuple[Item, ...]] = field(default_factory=dict)

    @property
    def peak(self) -> float:
        """The bytes that are in use at the same time, at most."""
        return total(self.always) + max((total(items) for items in self.phases.values()), default=0.0)


def total(items: Sequence[Item]) -> float:
    """Add up the bytes of items."""
    return sum(item.bytes for item in items)


def sampled_row(size: Size, tokens: int) -> int:
    """Compute the bytes that sampling needs for a row: keys and values of its tokens, and one token's logits."""
    return size.cached_values * size.itemsize * tokens + BYTES_PER_LOGIT * size.vocab_size


def sampling_plan(size: Size, work: Work, *, models: int = 1) -> MemoryPlan:
    """Plan a command that samples: collect, or evaluate with policy and reference loaded together.

    Args:
        size: the model.
        work: the settings; `rollouts` are the rows of a batch, all of which are sampled together.
        models: how many models of this size are loaded at the same time.

    Returns:
        The plan.
    """
    weights = Item(f"weights, {_counted(size.parameters)}" + ("" if models == 1 else f", {models} models"), 0.0)
    always = (*work.beside, weights._replace(bytes=float(models * size.parameters * size.itemsize)))
    return MemoryPlan(always, {"sampling": (_rows(size, work.rollouts, work.longest),)})


def training_plan(size: Size, work: Work, available: float) -> MemoryPlan:
    """Plan `vbon train`: weights, reference, critic, gradients, moments, and the larger of rollouts and update.

    Args:
        size: the model, with its adapters and critic.
        work: the settings.
        available: bytes that the device has for this process.

    Returns:
        The plan.
    """
    always = (*work.beside, *_held(size, work))
    update = [_micro_batch(size, work), _chunk_of_logits(size, work)]
    if work.mixed:
        update.append(Item("bfloat16 copies of the weights", 2.0 * size.parameters))
    rollouts = _sampled(size, work, "rollouts", available - total(always))
    return MemoryPlan(always, {"rollouts": (rollouts,), "update": tuple(update)})


def checkpoint_bytes(size: Size, keep: int) -> float:
    """Compute the disk space of a run: `keep` checkpoints with moments, the best weights, and the model itself."""
    return size.trained * (1 + ADAM_MOMENTS) * keep + size.trained + size.parameters * size.itemsize


def _held(size: Size, work: Work) -> list[Item]:
    weights, adapted = float(size.parameters * size.itemsize), size.adapters > 0
    share = work.processes if work.in_shards else 1
    items = [
        Item(f"weights of the policy, {_counted(size.parameters)}", weights),
        Item("reference: the policy's weights" if adapted else "weights of the reference", 0 if adapted else weights),
    ]
    if adapted:
        items.append(Item(f"adapters, {_counted(size.adapters)}", 4.0 * size.adapters))
    if size.critic_adapters or size.critic:
        own = 4.0 * size.critic_adapters if adapted else float(size.critic * size.itemsize)
        items.append(Item("critic" + (": adapters and a head on the policy's weights" if adapted else ""), own))
    if work.in_shards:
        items.append(Item(f"shard of the trained weights, 1 of {share}", size.trained / share))
    elif work.processes > 1:
        items.append(Item("gradients on their way to other processes", float(size.trained)))
    items.append(Item("gradients", size.trained / share))
    items.append(Item("Adam's moments", ADAM_MOMENTS * size.trained / share))
    return items


def _sampled(size: Size, work: Work, use: Use, free: float) -> Item:
    """Keys, values and logits of as many rows as are sampled together: a power of two, as `rows_that_fit` says."""
    limit = _limit(use, work)
    amount = FREE_SHARE * max(free, 0.0) if limit.amount is None else limit.amount
    fitting = power_of_two(int(min(amount // sampled_row(size, work.longest), limit.most_rows or float("inf"))))
    return _rows(size, min(max(1, fitting), work.rollouts), work.longest)


def _rows(size: Size, rows: int, tokens: int) -> Item:
    return Item(f"keys, values and logits, {rows} rows at a time", float(rows * sampled_row(size, tokens)))


def _micro_batch(size: Size, work: Work) -> Item:
    amount = _limit("training", work).amount
    assert amount is not None
    rows = min(max(1, amount // (size.kept_per_token * work.longest)), work.minibatch)
    return Item(f"activations, {rows} rows at a time", float(rows * work.longest * size.kept_per_token))


def _chunk_of_logits(size: Size, work: Work) -> Item:
    amount = _limit("log-softmax", work).amount
    assert amount is not None
    logits = min(amount, work.minibatch * work.longest * size.vocab_size)
    return Item("logits, a chunk at a time", 4.0 * CHUNKS_OF_LOGITS * logits)


def _limit(use: Use, work: Work) -> Limit:
    return LIMITS[use]["cpu" if work.device == "cpu" else "cuda"]


def _counted(parameters: int) -> str:
    """A number of weights as people say it: 135 million."""
    return f"{parameters / 1e9:.1f} billion" if parameters >= 1e9 else f"{parameters / 1e6:.3g} million"
