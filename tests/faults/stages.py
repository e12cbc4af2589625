"""Command lines of the stages, small enough for a test."""

COLLECT = "collect --model ref --max-new-tokens 3 --num-samples 60 --batch-size 90 --device cpu --prompts"
TRAIN = (
    "train --model ref --pool pool --n 2 --out run --device cpu --num-iterations 3 --rollouts-per-iteration 16 "
    "--samples-per-prompt 4 --minibatch-size 8 --validation-every 1 --checkpoint-every 1 --warm-start none "
    "--tracker none"
)
EVALUATE = "evaluate run --pool held --out eval --samples-per-prompt 4 --device cpu --no-throughput"
