"""Two Ray nodes on this machine: prints their address; a line on stdin kills the second node, its end both."""

import os
import sys

# Ray's workers are nice (15), and would starve on a machine that others use.
os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112

from ray.cluster_utils import Cluster

NODE = {"object_store_memory": 100_000_000, "include_dashboard": False}


def main() -> None:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, **NODE})
    second = cluster.add_node(num_cpus=1, **NODE)
    cluster.wait_for_nodes()
    print(cluster.address, flush=True)
    for _ in sys.stdin:
        cluster.remove_node(second, allow_graceful=False)
        print("lost", flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    main()
