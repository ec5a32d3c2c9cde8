"""Memory that two processes share, and tensors in it: raw numbers, nothing pickled."""

from __future__ import annotations

import math
import mmap
import os
import tempfile
from collections.abc import Sequence
from typing import BinaryIO, TypedDict, cast

import torch
from torch import Tensor

__all__ = ["Layout", "SharedMemory"]

_ALIGNMENT = 64  # torch's own on the CPU, so that kernels split a tensor the same way


class Layout(TypedDict):
    """Where a tensor lies.

    Args:
        dtype: Name of its type in torch, such as `float32`.
        shape: Its shape.
        strides: Its strides, in elements: kernels sum in their order, so scores depend on them in the last bits.
        offset: Bytes before it.
    """

    dtype: str
    shape: list[int]
    strides: list[int]
    offset: int


class SharedMemory:
    """Memory without a name, which ends with its last user and grows as needed.

    Args:
        descriptor: An inherited descriptor of it; None makes a new one.
    """

    def __init__(self, descriptor: int | None = None) -> None:
        self._file = _create() if descriptor is None else os.fdopen(descriptor, "r+b", buffering=0)
        self._map: mmap.mmap | None = None

    @property
    def descriptor(self) -> int:
        """What another process needs to share it."""
        return self._file.fileno()

    def write(self, tensors: Sequence[Tensor], behind: Layout | None = None) -> list[Layout]:
        """Copy tensors into the memory, over what was there.

        Args:
            tensors: On any device, of any strides.
            behind: What must stay as it is; they come after it.
        """
        layouts, end = [], _end(behind) if behind else 0
        for tensor in tensors:
            layouts.append(_layout(tensor, offset=-(-end // _ALIGNMENT) * _ALIGNMENT))
            end = _end(layouts[-1])
        self._reserve(end)
        for layout, tensor in zip(layouts, tensors, strict=True):
            self.read(layout).copy_(tensor.detach())
        return layouts

    def read(self, layout: Layout) -> Tensor:
        """The tensor that lies there: a view, which the next `write` changes."""
        dtype, count = getattr(torch, layout["dtype"]), math.prod(layout["shape"])
        if not count:
            return torch.empty(layout["shape"], dtype=dtype)
        if self._map is None or len(self._map) < _end(layout):
            # A map that tensors still look into cannot be resized; it ends with the last of them.
            self._map = mmap.mmap(self.descriptor, 0)
        flat = torch.frombuffer(self._map, dtype=dtype, count=count, offset=layout["offset"])
        return flat.as_strided(layout["shape"], layout["strides"])

    def close(self) -> None:
        """Let go of it."""
        self._map = None
        self._file.close()

    def _reserve(self, size: int) -> None:
        if os.fstat(self.descriptor).st_size >= size:
            return
        if hasattr(os, "posix_fallocate"):
            # A lack of memory is an OSError here; with ftruncate alone it would be a SIGBUS while copying.
            os.posix_fallocate(self.descriptor, 0, size)
        else:
            os.ftruncate(self.descriptor, size)


def _create() -> BinaryIO:
    """An unlinked file in memory (Linux: not limited by the size of /dev/shm), else in the temporary folder."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("orwcfm"), "r+b", buffering=0)
    return cast(BinaryIO, tempfile.TemporaryFile(buffering=0))


def _layout(tensor: Tensor, offset: int) -> Layout:
    """Without gaps or overlaps, and else with the tensor's own strides."""
    strides = torch.empty_like(tensor, device="meta").stride()
    dtype = str(tensor.dtype).removeprefix("torch.")
    return Layout(dtype=dtype, shape=list(tensor.shape), strides=list(strides), offset=offset)


def _end(layout: Layout) -> int:
    itemsize: int = getattr(torch, layout["dtype"]).itemsize
    return layout["offset"] + math.prod(layout["shape"]) * itemsize
