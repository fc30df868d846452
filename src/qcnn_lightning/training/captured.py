"""A step of several networks as one CUDA graph: one launch in place of hundreds, each as long as what it launches."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

WARM_UPS = 3
"""Steps before a capture, in which PyTorch's libraries choose their algorithms and take memory."""


class CapturedStep:
    """A step on tensors of fixed shapes, captured at its first call.

    Args:
        step: of the inputs; reads and changes tensors that stay where they are, and never asks the device for a number.
        changed: the tensors that it changes: warming up leaves them as they were.
    """

    def __init__(self, step: Callable[..., Tensor], changed: Sequence[Tensor]):
        self._step, self._changed = step, list(changed)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: list[Tensor] = []

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Take a step, and return what it returns."""
        if self._graph is None:
            self._capture(inputs)
        assert self._graph is not None
        for own, given in zip(self._inputs, inputs, strict=True):
            own.copy_(given)
        self._graph.replay()
        return self._output.clone()

    def _capture(self, inputs: Sequence[Tensor]) -> None:
        self._inputs = [given.clone() for given in inputs]
        before = [tensor.clone() for tensor in self._changed]
        # As PyTorch wants it: away from the stream that other work is in.
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UPS):
                self._step(*self._inputs)
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._output = self._step(*self._inputs)
        for tensor, own in zip(self._changed, before, strict=True):
            tensor.copy_(own)
