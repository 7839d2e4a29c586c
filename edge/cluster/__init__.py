"""Many machines instead of one: work sent as content to a dask.distributed cluster, results as one machine writes them."""

from edge.cluster.pool import Cluster, open_cluster

__all__ = ["Cluster", "open_cluster"]
