"""How long a call takes that only queues work for the device: for the scripts that time single layers and kernels."""

import time
from collections.abc import Callable

import torch

GPU = torch.cuda.is_available()
REPLAYS = 5


def milliseconds(call: Callable[[], object], count: int = 20) -> float:
    """Of one call: on a GPU of many in one graph, so that neither Python nor the launches are measured."""
    for _ in range(3):
        call()
    if not GPU:
        began = time.perf_counter()
        call()
        return 1000 * (time.perf_counter() - began)
    torch.cuda.synchronize()
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    with torch.cuda.graph(graph, stream=stream):
        for _ in range(count):
            call()
    graph.replay()
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    first.record()
    for _ in range(REPLAYS):
        graph.replay()
    last.record()
    last.synchronize()
    return first.elapsed_time(last) / REPLAYS / count
