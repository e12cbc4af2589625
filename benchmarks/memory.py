"""Peak memory that one iteration adds, vbon against TRL's RLOOTrainer: each in a process of its own, as Linux counts.

What is counted is the highest resident size during the process less that when both libraries and the model were loaded.
"""

import json
import resource
import subprocess
import sys

import torch

from benchmarks import iteration
from benchmarks.measure import arguments, report
from benchmarks.models import gpt2, random_rows

CONTENDERS = ("vbon", "vbon PPO", "vbon PPO, shared trunk", "TRL RLOO")


def resident() -> float:
    """MiB of this process now."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 2**20


def added(contender: str, threads: int, iterations: int) -> float:
    """MiB that iterations of this contender add to a process in which everything is imported."""
    import datasets
    import trl

    assert trl.RLOOTrainer and datasets.Dataset
    torch.set_num_threads(threads)
    model = gpt2()
    prompts = random_rows(iteration.NUM_PROMPTS, 2, 8)
    start = resident()
    if contender == "TRL RLOO":
        iteration.trl_seconds(prompts, iterations)
    else:
        changes = {"algorithm": "ppo" if "PPO" in contender else "rloo"}
        changes["critic"] = "shared" if "shared" in contender else "separate"
        run = iteration.vbon_iteration(prompts, **changes)
        for _ in range(iterations + 1):
            run()
    del model
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - start


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--one", choices=CONTENDERS, help="measure this one here and print a number")
    args = parser.parse_args()
    if args.one:
        print(json.dumps(added(args.one, args.threads, iterations=1)))
        return
    measured = {}
    for name in CONTENDERS[::3] if args.tiny else CONTENDERS:
        command = [sys.executable, "-m", "benchmarks.memory", "--one", name, "--threads", str(args.threads)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        measured[name] = float(done.stdout.splitlines()[-1])
    theirs = measured["TRL RLOO"]
    report(
        [
            {"contender": name, "MiB": round(size, 1), "memory / TRL": round(size / theirs, 3)}
            for name, size in measured.items()
        ],
        args,
    )


if __name__ == "__main__":
    main()
