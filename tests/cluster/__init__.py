"""A Kubernetes cluster in this process, for tests: the ``kubernetes`` client talks to it over HTTP on the loopback interface.

    def test_it(cluster):                                   # the fixture of tests/conftest.py
        cluster.add_node("n", gpus=8)
        batch = client.BatchV1Api(cluster.client())         # or cluster.url, cluster.kubeconfig(path)
        batch.create_namespaced_job(cluster.namespace, ...)
        cluster.finish(cluster.pod("job", 0), exit_code=1)  # or evict, preempt, kill_for_memory, delete, lose_node ...
        cluster.advance(10)                                 # time stands still otherwise
        assert cluster.ended("job") == "Failed"

What is real: versions, conflicts, watches, patches, deletions with finalizers and owners, validation, Pod Security, quotas; the
Job, JobSet, TTL and garbage controllers; the scheduler's filters and preemption; the kubelet's states, messages and graces; taints
of dead nodes. Controllers have settled when a request is answered, unless ``cluster.loop.held()``. Pods do what
``cluster.kubelet.script`` says (:class:`Script`), or are processes of this machine (``Script(process=True)``, best with
``cluster.running_clock()``): then a claim must be mounted at the folder it was added with, the names of a headless Service
become 127.0.0.1 in values and arguments, and the termination message is read from the file that ``FT_TERMINATION_LOG`` names.

What is not there: server-side apply, exec and attach, admission webhooks but Kueue's and JobSet's, affinity between pods, probes,
sidecars, init containers as processes, volumes other than claims in processes. Kueue is :meth:`Cluster.use_kueue` and
:meth:`Cluster.admit`; it has no objects of its own.
"""

from cluster.cluster import Cluster
from cluster.containers import Script

__all__ = ["Cluster", "Script"]
