"""The paper's sentiment control on real reviews.

    python recipes/sentiment prepare --reviews reviews.jsonl.gz --out runs/sentiment
    python recipes/sentiment run     --reviews reviews.jsonl.gz --out runs/sentiment [--until collect]
    python recipes/sentiment results --out runs/sentiment

`prepare` makes tokenizer, reference, classifier and prompts, and prints the ordinary commands that do the rest; `run`
does the rest too. `results` writes table and figure of what was measured either way. A command that was stopped goes on
when it is given again.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from preset import load_preset
from recipe import PREPARED, STAGES, Recipe

from vbon.demo.staged import exit_status, first_until


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 2 and one line for what the user can mend, 130 for Ctrl-C."""
    args = _parser().parse_args(argv)

    def work() -> None:
        preset = load_preset(args.preset)
        (args.out / "stages").mkdir(parents=True, exist_ok=True)
        recipe = Recipe(preset, args.reviews, args.out, args.seeds, args.results or args.out / "results")
        for stage in _stages(args):
            getattr(recipe, stage)()
        if args.command == "prepare":
            print("\n".join([*recipe.write_commands(), f"python {Path(__file__).parent} results --out {args.out}"]))

    return exit_status("sentiment", work)


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
            command.set_defaults(reviews=None)
        else:
            what = "JSONL (also .gz) with text and label, or FILE.pos with its FILE.neg beside it"
            command.add_argument("--reviews", type=Path, required=True, help=what)
        command.add_argument("--out", type=Path, required=True, help="folder of everything that is made")
        command.add_argument("--preset", default="small", help="small, paper, or a YAML file of the same sections")
        command.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="one training run each")
        command.add_argument("--results", type=Path, help="folder of table and figure; default: OUT/results")
    made["run"].add_argument("--until", choices=STAGES, default=STAGES[-1], help="the last stage to do")
    return parser


if __name__ == "__main__":
    sys.exit(main())
