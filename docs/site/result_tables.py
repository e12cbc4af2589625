"""Tables of README and the pages, made from the committed results and from formulas: `make numbers` rewrites them.

A table stands between two comments of a Markdown file, `<!-- numbers: NAME -->` and `<!-- end -->`. With `--check` the
command changes nothing, and fails if a table is not the one that the results give.
"""

import io
import json
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import mean, median
from typing import Any

from rich.console import Console

from vbon.config.pool import CollectConfig
from vbon.core.best_of_n import kl_from_reference, win_rate
from vbon.core.pool_size import TOLERANCE, kl_from_pool, num_samples_for
from vbon.demo.closing import closing_table

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"(<!-- numbers: ([a-z-]+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
RECIPES = ROOT / "recipes"
LAB = ROOT / "docs" / "results"


def read(path: Path) -> Any:
    """Read a JSON file of results."""
    return json.loads(path.read_text(encoding="utf-8"))


def table(header: Iterable[str], rows: Iterable[Iterable[str]], numbers_from: int = 1) -> str:
    """Lay out a Markdown table whose columns from `numbers_from` on are right-aligned."""
    header = list(header)
    rule = ["---" if place < numbers_from else "--:" for place in range(len(header))]
    return "".join(f"| {' | '.join(row)} |\n".replace("|  |", "| |") for row in [header, rule, *map(list, rows)])


def span(values: Iterable[float], form: str) -> str:
    """Write the lowest and the highest of some values, or one value where both look alike."""
    ordered = sorted(values)
    low, high = (format(value, form).rstrip("%") for value in (ordered[0], ordered[-1]))
    return (low if low == high else f"{low} to {high}") + (" %" if form.endswith("%") else "")


def recipes() -> str:
    """How much of best-of-N's gain one sample has, by recipe: the lowest and the highest of three seeds."""
    header = ("task", "share of best-of-N's gain with one sample", "KL to the reference, nats", "best-of-N's KL")
    return table(header, [_arithmetic(), _reviews(), _summaries()])


def _arithmetic() -> tuple[str, ...]:
    found = read(RECIPES / "verifiable/results/results.json")
    runs, low, high = found["runs"]["vbon"].values(), *_passes(found)
    return (
        f"[arithmetic](RECIPES/verifiable/README.md) with a verifier, N = {found['n']:.0f}",
        span([(run["pass_at_1"]["value"] - low) / (high - low) for run in runs], ".1%"),
        span([run["kl_policy_ref"]["value"] for run in runs], ".2f"),
        f"{found['best_of_n']['kl_policy_ref']['value']:.2f}",
    )


def _passes(found: Any) -> tuple[float, float]:
    return found["reference"]["pass_at_1"]["value"], found["best_of_n"]["pass_at_1"]["value"]


def _reviews() -> tuple[str, ...]:
    found = read(RECIPES / "sentiment/results/results.json")
    runs = found["seeds"].values()
    return (
        f"[IMDB reviews](RECIPES/sentiment/README.md), 16 tokens, N = {found['n']:.0f}",
        span([run["reward_gain_share"]["value"] for run in runs], ".1%"),
        span([run["kl_policy_ref"]["value"] for run in runs], ".2f"),
        f"{found['best_of_n']['kl_policy_ref']['value']:.2f}",
    )


def _summaries() -> tuple[str, ...]:
    """Read results.md of the recipe, which writes no JSON: the rows at temperature 1."""
    text = (RECIPES / "summarization/results/results.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| 1 |")]
    values = {row[1]: [float(cell.split(" ")[0]) for cell in (row[2], row[4])] for row in rows}
    (low, _), (high, kl_bon) = values.pop("reference"), values.pop("best-of-8")
    return (
        "[one-sentence summaries](RECIPES/summarization/README.md), N = 8",
        span([(reward - low) / (high - low) for reward, _ in values.values()], ".0%"),
        span([kl for _, kl in values.values()], ".2f"),
        f"{kl_bon:.2f}",
    )


def verifiable() -> str:
    """Pass rates and KL of every run of the recipe on arithmetic, the reference and best-of-N."""
    found = read(RECIPES / "verifiable/results/results.json")
    n, names = found["n"], {"vbon-bound": "one-sided estimator", "kl-rl": "KL-RL at best-of-N's KL"}
    rows = [
        (f"{names.get(method, method)}, seed {seed}", *(f"{run[key]['value']:.3f}" for key in ("pass_at_1", *_KLS)))
        for method, seeds in found["runs"].items()
        for seed, run in seeds.items()
    ]
    low, high = _passes(found)
    own = [
        ("reference, one sample", f"{low:.3f}", "0", ""),
        (f"reference, best of {n:g}", f"{high:.3f}", f"{found['best_of_n']['kl_policy_ref']['value']:.3f}", "0"),
    ]
    return table(("", "pass@1", "KL to the reference, nats", "KL to best-of-N, nats"), [*own, *rows])


_KLS = ("kl_policy_ref", "kl_policy_bon")


def cost() -> str:
    """The cost of best-of-N over that of one sample, in a full batch."""
    rows = read(ROOT / "benchmarks/results/best_of_n.json")["rows"]
    full = {(row["n"], row["reward"]): row["cost of best-of-N / one sample"] for row in rows if row["mode"][0] == "f"}
    ns = sorted({n for n, _ in full})
    kinds = (("free", "a free reward"), ("classifier", "a classifier as large as the policy"))
    return table(
        ("cost of best-of-N, one sample = 1", *(f"N = {n}" for n in ns)),
        [(label, *(f"{full[n, kind]:.1f}" for n in ns)) for kind, label in kinds],
    )


def pool() -> str:
    """The distance to best-of-N after training on pools of M samples, in the lab."""
    found = read(LAB / "samples-medium.json")["trained"]
    sizes = sorted({row["num_samples"] for row in found})
    return table(
        ("N", *(f"M = {size:,}" for size in sizes)),
        [(str(n), *(_median_kl(found, n=n, num_samples=size) for size in sizes)) for n in _values(found, "n")],
    )


def _values(rows: list[Any], key: str) -> list[Any]:
    return sorted({row[key] for row in rows})


def _median_kl(rows: list[Any], **wanted: Any) -> str:
    kls = [row["kl_policy_bon"] for row in rows if all(row[key] == value for key, value in wanted.items())]
    return f"{median(kls):#.2g}" if kls else "–"


def ties() -> str:
    """The distance to best-of-N by the rule for equal rewards, in the lab."""
    found = read(LAB / "ties-medium.json")["trained"]
    rules = (("random", "exact (vbon)"), ("order", "a fixed order"), ("one-sided", "the paper's count"))
    rewards = (("levels", "five levels"), ("binary", "binary"))
    return table(
        ("reward", "N", *(label for _, label in rules)),
        [
            (label, str(n), *(_median_kl(found, reward=reward, n=n, rule=rule) for rule, _ in rules))
            for reward, label in rewards
            for n in _values(found, "n")
        ],
    )


def backward_kl() -> str:
    """The distance to best-of-N in the lab, for vbon and for exact gradients."""
    rows = {(row["method"], row["n"]): row for row in read(LAB / "backward-kl-medium.json")["rows"]}
    ns = sorted({n for _, n in rows})
    return table(
        ("", *(f"N = {n}" for n in ns)),
        [(method, *(f"{rows[method, n]['kl_policy_bon']:#.2g}" for n in ns)) for method in ("vbon", "exact gradient")],
    )


def sweep(path: Path) -> Callable[[], str]:
    """Return the maker of a sweep's table: the distance to best-of-N by method and N, with the nearest in bold."""

    def make() -> str:
        runs = [run for run in read(path)["runs"] if run["status"] == "done"]
        methods = list(dict.fromkeys(run["method"] for run in runs))
        rows = []
        for n in _values(runs, "n"):
            kls = {method: mean(_kls(runs, method, n)) for method in methods}
            rows.append((f"{n:g}", *(_bold(kls[name], is_best=kls[name] == min(kls.values())) for name in methods)))
        return table(("N", *methods), rows)

    return make


def _kls(runs: list[Any], method: str, n: float) -> list[float]:
    return [run["metrics"]["kl_policy_bon"]["value"] for run in runs if (run["method"], run["n"]) == (method, n)]


def _bold(value: float, *, is_best: bool) -> str:
    return f"**{value:.2f}**" if is_best else f"{value:.2f}"


NS = (2, 4, 8, 16, 32, 64)


def best_of_n_table() -> str:
    """Win rate and KL of best-of-N by N, without ties, from the formulas."""
    return table(
        ("N", *map(str, NS)),
        [
            ("win rate against one sample, N/(N+1)", *(f"{win_rate(n):.3f}" for n in NS)),
            ("KL(π_bon‖π_ref) = log N − (N−1)/N, nats", *(f"{kl_from_reference(n):.3f}" for n in NS)),
        ],
    )


def pool_size() -> str:
    """The M that N needs, and the cost of the default M, from the formulas."""
    num_samples = CollectConfig.num_samples
    return table(
        ("N", *map(str, NS)),
        [
            (f"M for which this cost is at most {TOLERANCE} nats", *(f"{num_samples_for(n):,}" for n in NS)),
            (f"cost of the default M = {num_samples}, in nats", *(f"{kl_from_pool(num_samples, n):.3f}" for n in NS)),
        ],
    )


def demo() -> str:
    """The closing table of the demo, for each seed whose result is committed."""
    rows = []
    for path in sorted((RECIPES / "demo/results").glob("seed-*.json")):
        found = read(path)
        for key, label in (("win_rate", "win rate"), ("reward", "reward"), ("kl_policy_ref", "KL to the reference")):
            policy, target = found["policy"][key], found["target"][key]
            interval = f"{policy['value']:.3f} ({policy['low']:.3f} to {policy['high']:.3f})"
            reference = found["reference"][key]["value"]
            rows.append((path.stem.replace("-", " "), label, f"{reference:.3f}", interval, f"{target:.3f}"))
    return table(("", "", "reference", "trained policy, one sample", f"best-of-{found['n']}"), rows, numbers_from=2)


def demo_short() -> str:
    """Win rate and KL of the demo's seed 0."""
    found = read(RECIPES / "demo/results/seed-0.json")
    rows = [("win_rate", "win rate against a sample of the reference"), ("kl_policy_ref", "KL to the reference, nats")]
    return table(
        ("", "reference", "trained policy, one sample", f"best-of-{found['n']}"),
        [
            (
                label,
                *(f"{found[who][key]['value']:.3f}" for who in ("reference", "policy")),
                f"{found['target'][key]:.3f}",
            )
            for key, label in rows
        ],
    )


def demo_closing() -> str:
    """The table with which `vbon demo --seed 0` ends, by the demo's own function."""
    text = io.StringIO()
    Console(file=text, width=80, color_system=None).print(closing_table(read(RECIPES / "demo/results/seed-0.json")))
    lines = [line.rstrip() for line in text.getvalue().splitlines()]
    return "\n".join(["```text", *lines, "```", ""])


TABLES: dict[str, Callable[[], str]] = {
    "recipes": recipes,
    "best-of-n": best_of_n_table,
    "pool-size": pool_size,
    "verifiable": verifiable,
    "cost": cost,
    "pool": pool,
    "ties": ties,
    "backward-kl": backward_kl,
    "sentiment-sweep": sweep(RECIPES / "sentiment/results/sweep.json"),
    "demo-sweep": sweep(LAB / "sweep-demo.json"),
    "demo": demo,
    "demo-short": demo_short,
    "demo-closing": demo_closing,
}


def pages() -> list[Path]:
    """Return README and the Markdown files of the documents and recipes, without those that are built."""
    folders = (ROOT / "docs", RECIPES)
    found = [path for folder in folders for path in folder.rglob("*.md") if "_build" not in path.parts]
    return [ROOT / "README.md", *sorted(found)]


def refreshed(text: str, page: Path) -> str:
    """Return a page's text with each of its tables made again. Raises KeyError for a table of an unknown name."""

    def made(block: re.Match[str]) -> str:
        recipes_from_here = Path(*[".."] * (len(page.relative_to(ROOT).parts) - 1)) / "recipes"
        return block[1] + TABLES[block[2]]().replace("RECIPES", recipes_from_here.as_posix()) + block[4]

    return BLOCK.sub(made, text)


def main(arguments: list[str]) -> int:
    """Rewrite the tables, or with `--check` name the pages whose tables are stale."""
    stale = [page for page in pages() if (text := page.read_text(encoding="utf-8")) != refreshed(text, page)]
    for page in stale:
        print(page.relative_to(ROOT))
        if "--check" not in arguments:
            page.write_text(refreshed(page.read_text(encoding="utf-8"), page), encoding="utf-8")
    return 1 if stale and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
