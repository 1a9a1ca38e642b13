"""An API server of Kubernetes' semantics in this process, with controllers, a scheduler and kubelets, for tests.

The ``kubernetes`` client talks to it over HTTP. Time is the test's: ``cluster.advance(40)``. ``docs`` of each part stand in
its module; :class:`cluster.cluster.Cluster` is what tests use.
"""

from cluster.cluster import Cluster
from cluster.containers import Script

__all__ = ["Cluster", "Script"]
