"""`--engine ray`: whole shards made by the workers of Ray Data, on any number of nodes (`ray` extra).

A worker holds model and reward as the transformers engine does, and a shard is a function of what travels to it. So the
pool is the one that a single process would have made (same kind of machine and number of threads), whichever worker
made which shard, and however often: Ray makes a shard again whose worker or node died, and would for ever, so that
deaths are counted here. Its transport pickles; what we send through it is text and Parquet bytes.
"""

import dataclasses
import json
import logging
import os
import socket
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from vbon.config.pool import CollectConfig
from vbon.errors import VbonError
from vbon.pool.engines import load_engine
from vbon.pool.job import Part, make_shard, part_of
from vbon.pool.manifest import Manifest, manifest_from_json, manifest_to_json
from vbon.pool.prompts import make_prompt
from vbon.pool.shards import encode_shard
from vbon.rewards import load_configured_reward

MOST_ATTEMPTS = 5  # at one shard: a preempted node is no reason to stop, a reward that crashes its process is

Row = dict[str, Any]


class Attempts:
    """An actor that all workers ask: how often was this shard begun?"""

    def __init__(self) -> None:
        self._begun: Counter[int] = Counter()

    def begin(self, index: int) -> int:
        self._begun[index] += 1
        return self._begun[index]


class ShardMaker:
    """A worker: model and reward once, then a shard a call.

    What the user can mend comes back as text: an exception would arrive wrapped in Ray's own.
    """

    def __init__(self, config: Row, manifest: str, folder: str, begin: Callable[[int], int]):
        """`begin` counts the attempts at a shard, `folder` is where the driver runs."""
        if os.path.isdir(folder):  # where relative paths are meant from
            os.chdir(folder)
        self._begin, self._manifest, self._mistake = begin, manifest_from_json(manifest), ""
        try:
            self._load(CollectConfig(**config))
        except VbonError as error:
            self._mistake = str(error)

    def _load(self, config: CollectConfig) -> None:
        self._engine = load_engine(dataclasses.replace(config, engine="transformers", num_workers=None))
        self._reward = load_configured_reward(config.reward, config, self._engine.device)
        differences = self._manifest.fingerprint.differences(self._engine.fingerprint(self._reward))
        if differences:
            name, there, here = differences[0]
            raise VbonError(f"{name} is {there!r} where the pool was begun but {here!r} on this node; copy it anew")

    def __call__(self, row: Row) -> Row:
        """{index, part} → {index, content (Parquet bytes), mistake}."""
        content, mistake = b"", self._mistake
        try:
            if not mistake:
                self._count(row["index"])
                samples = make_shard(unpack(row["part"]), self._engine, self._reward, self._manifest)
                content = encode_shard(samples, self._manifest.seed)
        except VbonError as error:
            mistake = str(error)
        where = f"a worker on {socket.gethostname()}: " if mistake else ""
        return {"index": row["index"], "content": content, "mistake": where + mistake}

    def _count(self, index: int) -> None:
        attempt = self._begin(index)
        if attempt > MOST_ATTEMPTS:
            raise VbonError(
                f"shard {index} was begun {attempt - 1} times, and its worker died each time; does the reward or the "
                "model crash its process, or run out of memory? Finished shards are stored"
            )


def ray_shards(
    config: CollectConfig, whole: Part, manifest: Manifest, missing: Sequence[int]
) -> Iterator[tuple[int, bytes]]:
    """Yield (index, Parquet bytes) of the missing shards, in the order in which they are done.

    Raises:
        VbonError: a worker's mistake, or workers that die again and again on one shard.
    """
    import ray
    import ray.data

    begun = not ray.is_initialized()
    if begun:  # RAY_ADDRESS, else the cluster that runs on this machine, else a new one in this process
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # what goes wrong, we say in a line
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        ray.init(include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    try:
        rows = [{"index": index, "part": pack(part_of(whole, manifest, index))} for index in missing]
        for row in _dataset(config, manifest, rows).iter_rows():
            if row["mistake"]:
                raise VbonError(row["mistake"])
            yield int(row["index"]), bytes(row["content"])
    except ray.exceptions.RayError as error:
        raise VbonError(
            f"--engine ray: {' '.join(str(error).split())[:300]}; finished shards are stored; the same command goes on"
        ) from error
    finally:
        if begun:
            ray.shutdown()


def _dataset(config: CollectConfig, manifest: Manifest, rows: list[Row]) -> Any:
    import ray
    import ray.data

    resources = ray.cluster_resources()
    gpus = int(resources.get("GPU", 0)) if config.device != "cpu" else 0
    workers = config.num_workers or gpus or int(resources.get("CPU", 1))
    need = {"num_gpus": 1} if gpus or config.device == "cuda" else {"num_cpus": 1}
    count = partial(_ask, ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Attempts).remote())
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        ShardMaker,
        fn_constructor_args=[dataclasses.asdict(config), manifest_to_json(manifest), os.getcwd(), count],
        compute=ray.data.ActorPoolStrategy(size=min(workers, len(rows))),
        **need,
    )
    # This dataset's own settings: our progress bar counts samples, and a shard may take long on a large model.
    dataset.context.enable_progress_bars = dataset.context.print_on_execution_start = False
    dataset.context.execution_no_progress_timeout_s = -1
    return dataset


def _ask(attempts: Any, index: int) -> int:
    import ray

    return int(ray.get(attempts.begin.remote(index)))


def pack(part: Part) -> str:
    """A part as JSON."""
    prompts = [{"prompt": one.prompt, "columns": one.columns, "row": one.row} for one in part.prompts]
    return json.dumps({"prompts": prompts, "prompt_ids": part.prompt_ids})


def unpack(text: str) -> Part:
    """The part that `pack` was given."""
    content = json.loads(text)
    prompts = [make_prompt(one["prompt"], one["columns"], row=one["row"]) for one in content["prompts"]]
    return Part(prompts, content["prompt_ids"])
