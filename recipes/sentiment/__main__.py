"""The paper's sentiment control on real reviews.

    python recipes/sentiment prepare --reviews reviews.jsonl.gz --out runs/sentiment
    python recipes/sentiment run     --reviews reviews.jsonl.gz --out runs/sentiment [--until collect] [--minutes 9]
    python recipes/sentiment results --out runs/sentiment

`prepare` makes tokenizer, reference, classifier and prompts, and prints the ordinary commands that do the rest; `run`
does the rest too. `results` writes table and figure of what was measured either way. A command that was stopped, or has
used up its `--minutes`, continues when it is given again.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from preset import Preset, load_preset
from recipe import PREPARED, STAGES, Recipe

from vbon.models.load import resolve_device
from vbon.recipes.stages import Budget, exit_status, first_until

DEFAULT = "small"


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 2 and one line for what the user can fix, 130 for Ctrl-C; 0 too for a pause, or what is skipped."""
    args = _parser().parse_args(argv)
    budget = Budget(args.minutes)

    def work() -> None:
        preset = load_preset(args.preset)
        if args.command != "results" and _is_skipped(preset, args.device):
            return
        (args.out / "stages").mkdir(parents=True, exist_ok=True)
        results = args.results or args.out / "results"
        recipe = Recipe(preset, args.reviews, args.out, args.seeds, results, args.device, budget)
        for stage in _stages(args):
            getattr(recipe, stage)()
        if args.command == "prepare":
            named = "" if args.preset == DEFAULT else f" --preset {args.preset}"
            last = f"python {Path(__file__).parent} results --out {args.out}{named}"
            print("\n".join([*recipe.write_commands(), last]))

    return exit_status("sentiment", work)


def _is_skipped(preset: Preset, device: str | None) -> bool:
    """Whether the preset wants a GPU that is not here; says so. Raises VbonError where --device itself asks for it."""
    if device is not None:
        resolve_device(device)
        return False
    if not str(preset.machine.device).startswith("cuda") or torch.cuda.is_available():
        return False
    print(
        f"sentiment: skipped: preset {preset.name} needs a GPU, and there is no CUDA device here; --device cpu runs it "
        "all the same, in days where a GPU takes minutes",
        file=sys.stderr,
    )
    return True


def _stages(args: argparse.Namespace) -> Sequence[str]:
    if args.command == "run":
        return first_until(STAGES, args.until)
    return PREPARED if args.command == "prepare" else STAGES[-1:]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sentiment", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    made = {name: commands.add_parser(name) for name in ("prepare", "run", "results")}
    for name, command in made.items():
        if name == "results":
            command.set_defaults(reviews=None, minutes=None)
        else:
            what = "JSONL (also .gz) with text and label, or FILE.pos with its FILE.neg beside it"
            command.add_argument("--reviews", type=Path, required=True, help=what)
            command.add_argument("--minutes", type=_positive, help="pause after so many; the same command continues")
        command.add_argument("--out", type=Path, required=True, help="folder of everything that is made")
        names = "small, paper, gpu, gpu-short, or a YAML file of the same sections"
        command.add_argument("--preset", default=DEFAULT, help=names)
        command.add_argument("--device", help="cpu or cuda, for every stage; default: what the preset says")
        command.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="one training run each")
        command.add_argument("--results", type=Path, help="folder of table and figure; default: OUT/results")
    made["run"].add_argument("--until", choices=STAGES, default=STAGES[-1], help="the last stage to do")
    return parser


def _positive(text: str) -> float:
    minutes = float(text)
    if not minutes > 0:
        raise argparse.ArgumentTypeError("must be above 0")
    return minutes


if __name__ == "__main__":
    sys.exit(main())
