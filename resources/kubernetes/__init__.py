"""From a placement to pods: the objects of a materialization, and what watches them.

``from kubernetes import ...`` is still the client library; only ``client`` imports it, and late.
"""
