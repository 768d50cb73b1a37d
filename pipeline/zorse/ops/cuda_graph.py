"""CUDA graphs: a function on a GPU is captured once and replayed, its kernels launched all at once, not one by one.

At batch 1 a GPU can finish kernels sooner than the host launches them. What is captured must depend on no decision of
the host, and read and write the same memory each time. (https://pytorch.org/docs/stable/notes/cuda.html, CUDA
graphs)
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from zorse.errors import UserError

WARM_UP = 3  # calls before the capture, in which algorithms are chosen, networks compiled, Adam's moments made


def capture(function: Callable[[], Any], stream: torch.cuda.Stream) -> Callable[[], Any]:
    """Capture what a function does on a stream, without doing it. The result replays it, on the current stream."""
    graph = torch.cuda.CUDAGraph()
    # Of this thread alone: the loader's thread pins memory meanwhile, which would invalidate a global capture.
    with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
        results = function()

    def replay() -> Any:
        graph.replay()
        return results

    return replay


class CapturedGraph:
    """A function of tensors, and of state that it changes in place, captured after WARM_UP calls.

    Inputs, on the device or in pinned memory, have the same shapes in each call. Tensors among the results are
    overwritten by the next call. capture: see above. Raises UserError where capturing fails.
    """

    def __init__(self, function: Callable[[list[Tensor]], Any], device: torch.device, capture: Callable = capture):
        self.function, self.device, self.capture = function, device, capture
        self.module = torch.get_device_module(device)
        self.stream = self.module.Stream()  # that of the calls before the capture, as autograd needs it
        self.calls = 0

    def __call__(self, inputs: list[Tensor]) -> Any:
        self.calls += 1
        if self.calls <= WARM_UP:
            return self._warm_up(inputs)
        if self.calls == WARM_UP + 1:
            self.inputs = [torch.empty_like(each, device=self.device) for each in inputs]
            try:
                self.replay = self.capture(lambda: self.function(self.inputs), self.stream)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:  # an operator that waits for the host, a driver that is too old, ...
                reason = str(error).strip().partition("\n")[0]
                raise UserError(f"--cuda-graph: does not work here ({reason}); leave it out") from None
        for place, each in zip(self.inputs, inputs, strict=True):
            place.copy_(each, non_blocking=True)
        return self.replay()

    def _warm_up(self, inputs: list[Tensor]) -> Any:
        """The function itself, on the stream of the capture."""
        self.stream.wait_stream(self.module.current_stream())
        with self.module.stream(self.stream):
            results = self.function([each.to(self.device, non_blocking=True) for each in inputs])
        self.module.current_stream().wait_stream(self.stream)
        return results
