"""Every reader of the package, with files that it accepts: what the fuzzer damages, and what it calls on the damage."""

from pathlib import Path

import config_targets as of_configs
import pool_targets as of_pools
import run_targets as of_runs
from valid import Target

MAKERS = (
    of_pools.prompts,
    of_pools.imports,
    of_pools.manifests,
    of_pools.shards,
    of_configs.configs_of_verbs,
    of_configs.sections,
    of_configs.sweeps,
    of_configs.declarations,
    of_configs.resumptions,
    of_runs.runs,
    of_runs.evaluations,
    of_runs.samples,
    of_runs.compared,
    of_runs.diaries,
    of_runs.states,
    of_runs.tensors,
    of_runs.answers,
)


def targets(folder: Path) -> list[Target]:
    """All targets, their files under `folder`."""
    made = []
    for maker in MAKERS:
        place = folder / maker.__name__
        place.mkdir()
        made.append(maker(place))
    return made
