"""Builds filled by the machines of a Ray cluster, or by the cores of this one. Needs the extra `ray`.

A fragment of the plan is one row of a Ray Data pipeline, and goes the whole way in one process: reading,
decoding, encoding, writing. Pixels cross no network: decoded they are 20 to 100 times their file. What comes
back is how many pictures there were. Captions by a model on the cluster are a pipeline of their own.
"""

from lookalike.jobs.captioning import VLLM, Form
from lookalike.jobs.cluster import Cluster, connected
from lookalike.jobs.orders import FRAGMENT, Asked, Workers

__all__ = ["FRAGMENT", "VLLM", "Asked", "Cluster", "Form", "Workers", "connected"]
