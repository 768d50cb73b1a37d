"""What a run requires of the machine: compilers, memory layout, gradient all-reduce."""

import ctypes
import platform
import resource
import sys
import warnings

import torch
from accelerate import Accelerator
from accelerate.utils import DDPCommunicationHookType, DistributedDataParallelKwargs

from zorse.config.schema import Compute
from zorse.cyclegan.step import CycleGANStep
from zorse.errors import UserError


def check_cuda_graph(accelerator: Accelerator) -> None:
    """Raise UserError where a step cannot be captured as a CUDA graph."""
    if accelerator.device.type != "cuda":
        raise UserError("--cuda-graph needs an NVIDIA GPU, and there is none here; leave it out")
    if accelerator.num_processes > 1:
        raise UserError(
            f"--cuda-graph works with one process alone, and here are {accelerator.num_processes}; leave it out, "
            "or give --processes 1"
        )
    if accelerator.scaler is not None:
        raise UserError("--cuda-graph and mixed precision fp16 cannot be combined; leave it out, or use bf16")


def ddp_kwargs(compute: Compute) -> DistributedDataParallelKwargs:
    """How DDP all-reduces gradients: once a step, overlapping the backward pass; buffers are the same on all ranks."""
    hook = DDPCommunicationHookType.BF16 if compute.grad_comm_dtype == "bfloat16" else DDPCommunicationHookType.NO
    # torch 2.15 and later call the option by another name, which 2.11 does not know.
    warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
    # Not static_graph: it gains nothing here and breaks no_sync (https://github.com/pytorch/pytorch/pull/187732).
    return DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True, comm_hook=hook)


def configure_device(model: CycleGANStep, device: torch.device, compute: Compute) -> None:
    """Compile the networks and choose layout and precision. Raises UserError for what this machine cannot do."""
    if compute.fused_norm:
        if device.type != "cuda":
            raise UserError("--fused-norm needs an NVIDIA GPU, and there is none here; leave it out")
        try:
            import zorse.ops.fused_norm_triton  # noqa: F401
        except ImportError as error:
            raise UserError(f"--fused-norm: {error}; leave it out") from None
    if device.type == "cuda":
        # The fastest algorithm for each size is searched; on a GPU, bits may so differ from one start to the next.
        torch.backends.cudnn.benchmark = True
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = compute.tf32 == "on"
    if device.type == "cpu":
        tune_glibc_malloc()
    if compute.compile:
        check_compiler(device)
        model.compile_networks()
    if device.type == "cuda" and (compute.compile or compute.fused_norm):
        model.to(memory_format=torch.channels_last)  # which torch's own InstanceNorm would undo


def peak_memory(device: torch.device) -> int:
    """The most bytes that this process has held: of a GPU's memory what torch reserved, on a CPU what was resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def tune_glibc_malloc() -> None:
    """Have glibc keep the memory of large arrays for reuse, as torch's allocator does on a GPU.

    Returned to the system after each use, it would be mapped again page by page, up to an eighth of a compiled step.
    """
    if platform.libc_ver()[0] == "glibc":
        libc, trim_threshold, mmap_max = ctypes.CDLL(None), -1, -4  # as malloc.h numbers them
        libc.mallopt(trim_threshold, -1)
        libc.mallopt(mmap_max, 0)  # not the threshold of mmap, of which some versions take no more than 32 MiB


def check_compiler(device: torch.device) -> None:
    """Raise UserError where torch.compile cannot work."""
    try:
        torch.compile(torch.neg)(torch.zeros(8, device=device))
    except Exception as error:  # a compiler that is missing, headers that are, a GPU that is too old, ...
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UserError(
            f"--compile: does not work here ({reason}); install g++ and Python's headers, or leave it out"
        ) from None
