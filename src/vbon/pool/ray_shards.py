"""`--engine ray`: the workers of Ray Data make whole shards, on any number of nodes (`ray` extra).

A worker holds model and reward as the transformers engine does, and a shard is a function of what is sent to the
worker. So the pool is that of a single process on the same kind of machine and number of threads, whichever worker made
a shard, and however often. Ray repeats a shard whose worker or node died without end, so the deaths are counted here.
Ray's transport uses pickle; what is sent through it is text and Parquet bytes.
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
    """An actor that counts, for all workers, how often each shard was started."""

    def __init__(self) -> None:
        self._begun: Counter[int] = Counter()

    def begin(self, index: int) -> int:
        """Count one more start of a shard, and return the number of its starts."""
        self._begun[index] += 1
        return self._begun[index]


class ShardMaker:
    """A worker: it loads model and reward once, and makes one shard per call.

    Errors that the user can fix are returned as text, since Ray would wrap an exception in one of its own.
    """

    def __init__(self, config: Row, manifest: str, folder: str, begin: Callable[[int], int]):
        """Load what the shards need. `begin` counts the attempts at a shard; `folder` is the driver's directory."""
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
        """Make a shard: {index, part} → {index, content (Parquet bytes), mistake (text)}."""
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
    """Make the missing shards on a Ray cluster.

    Args:
        config: settings of the collection.
        whole: all prompts of the pool.
        manifest: the manifest of the pool.
        missing: indices of the shards to make.

    Yields:
        Index and Parquet bytes of each shard, in the order in which they are finished.

    Raises:
        VbonError: a worker met an error that the user can fix, or workers died repeatedly on one shard.
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
            f"--engine ray: {' '.join(str(error).split())[:300]}; finished shards are stored; repeat the command"
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
    """Serialise a part to JSON."""
    prompts = [
        {"prompt": one.prompt, "columns": one.columns, "row": one.row, "absent": one.absent} for one in part.prompts
    ]
    return json.dumps({"prompts": prompts, "prompt_ids": part.prompt_ids})


def unpack(text: str) -> Part:
    """Parse the result of `pack`."""
    content = json.loads(text)
    prompts = [
        dataclasses.replace(make_prompt(one["prompt"], one["columns"], row=one["row"]), absent=tuple(one["absent"]))
        for one in content["prompts"]
    ]
    return Part(prompts, content["prompt_ids"])
