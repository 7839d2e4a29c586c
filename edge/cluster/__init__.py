"""Many machines instead of one: work goes to a dask.distributed cluster, results are those of one machine."""

from edge.cluster.pool import Cluster, open_cluster

__all__ = ["Cluster", "open_cluster"]
