"""Makes the engine that was chosen: the one place that knows them all."""

import os
from functools import partial

from assistant.host.engine_choice import EngineChoice
from assistant.host.host import Host
from assistant.host.job import Engine
from assistant.host.local import LocalEngine
from assistant.host.matrices import Weights
from assistant.host.read_passages import ReadPassages
from assistant.host.replicas import ReplicatedEngine
from assistant.host.vllm import VllmEngine

# vLLM's own name for it: whoever started the server on this machine has it in the environment already.
KEY = "VLLM_API_KEY"


def make_engine(host: Host, choice: EngineChoice, weights: Weights = "auto") -> Engine:
    """The engine for a host.

    weights  how the local engine reads the host's matrices

    Raises MattoniError where a server is not there, or serves another model, and where replicas do not start.
    """
    if choice.replicas:
        return ReplicatedEngine(host, *choice.least_and_most, weights)
    local = partial(LocalEngine, host, weights=weights, passages=ReadPassages.of_this_machine())
    if choice.name == "local":
        return local()
    return VllmEngine(host, choice.url, local if choice.fallback else None, os.environ.get(KEY, ""))
