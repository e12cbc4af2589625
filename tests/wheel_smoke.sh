#!/usr/bin/env bash
# Every stage, run by an installed wheel away from the clone: wheel_smoke.sh BIN FOLDER, where BIN holds vbon and python.
set -euo pipefail
bin=$1
cd "$2"
world='from pathlib import Path
import vbon
from vbon.lab.world import World, make_world
assert "site-packages" in vbon.__file__, vbon.__file__
prompts = ("one", "two", "three", "one two", "two one", "three two", "two two", "one three")
make_world(World(letters=3, max_new_tokens=3, prompts=prompts, hidden_size=16, num_layers=1), Path("world"))'
"$bin/python" -c "$world"
reward=vbon.lab.rewards:levels
"$bin/vbon" --version
"$bin/vbon" collect --model world/model --prompts world/prompts.jsonl --reward $reward --num-samples 64 \
    --max-new-tokens 3 --device cpu --out pool
"$bin/vbon" inspect pool
"$bin/vbon" train --pool pool --model world/model --reward $reward --n 4 --num-iterations 2 --device cpu \
    --rollouts-per-iteration 16 --samples-per-prompt 4 --minibatch-size 8 --out run
"$bin/vbon" generate --model run --prompts world/prompts.jsonl --max-new-tokens 3 --device cpu --out samples.jsonl
"$bin/vbon" evaluate run --pool pool --samples-per-prompt 4 --device cpu --no-throughput --out evaluation
"$bin/vbon" report run evaluation --out report.html
"$bin/vbon" integrate trl --pool pool --n 4 --reward $reward --out trainer
for file in run/README.md run/vbon/run.json evaluation/evaluation.json report.html samples.jsonl trainer; do
    test -s $file
done
echo "the wheel works: every stage ran in $(pwd)"
