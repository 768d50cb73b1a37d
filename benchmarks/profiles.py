"""What a torch.profiler trace says about where the time of a step goes."""

import re
from collections import Counter
from collections.abc import Iterator

from torch.autograd import DeviceType
from torch.profiler import profile

# The first that is found in "ancestors > op:operator | kernel" decides.
CLASSES = {
    "optimizer": r"Optimizer\.(step|zero_grad)|FusedAdam|multi_tensor_apply",
    "copies and casts": r"op:aten::(copy_|cat|clone|fill_|zero_|stack) |nchwToNhwc|nhwcToNchw|Memcpy|Memset|CatArray",
    "fused by the compiler": r"triton_(?!tem)|cpp_fused|op:\S*[Cc]ompiled",
    "convolution, weight gradient": r"wgrad",
    "convolution, input gradient": r"convolution_backward.*(dgrad|fprop)|^\|.*dgrad",
    "convolution, bias gradient": r"convolution_backward > op:aten::sum ",
    "convolution, both gradients": r"convolution_backward",
    "convolution, forward": r"convolution|conv2d|conv_transpose2d|triton_tem|^\|.*fprop",
    "padding": r"reflection_pad",
    "norm": r"batch_norm|instance_norm|group_norm|var_mean",
    "activation": r"relu|clamp_min|threshold|tanh",
    "other": "",
}
PATTERNS = {name: re.compile(pattern) for name, pattern in CLASSES.items()}


def class_of(path: str) -> str:
    return next(name for name, pattern in PATTERNS.items() if pattern.search(path))


def time_by_class(trace: profile) -> dict[str, float]:
    """Microseconds: of the GPU if it did anything, else of the operators themselves on the CPU."""
    time = Counter()
    for path, us in _on_gpu(trace) or _on_cpu(trace):
        time[class_of(path)] += us
    return {name: time[name] for name in CLASSES}


def work_items(trace: profile) -> int:
    """Kernels and copies if a GPU did anything, else operators that no other operator called."""
    if kernels := sum(map(_is_kernel, trace.events())):
        return kernels
    return sum(
        event.name.startswith("aten::") and not (event.cpu_parent and event.cpu_parent.name.startswith("aten::"))
        for event in trace.events()
    )


def _is_kernel(event) -> bool:
    return event.device_type == DeviceType.CUDA and not event.is_user_annotation


def _path(event) -> str:
    names = [f"op:{event.name}"]
    while event := event.cpu_parent:
        names.append(event.name)
    return " > ".join(reversed(names)) + " |"


def _on_cpu(trace: profile) -> Iterator[tuple[str, float]]:
    return ((_path(event), event.self_cpu_time_total) for event in trace.events())


def _on_gpu(trace: profile) -> list[tuple[str, float]]:
    """Every kernel with the operator that launched it, or alone where none is known, as in a replayed graph."""
    launched = [
        (_path(event), kernel.name, kernel.duration)
        for event in trace.events()
        if event.device_type == DeviceType.CPU
        for kernel in event.kernels
    ]
    alone = Counter()
    for event in filter(_is_kernel, trace.events()):
        alone[event.name] += event.device_time_total
    for _, name, us in launched:
        alone[name] -= us
    rest = [("|", name, us) for name, us in alone.items() if us > 0.5]
    return [(f"{path} {name}", us) for path, name, us in [*launched, *rest]]
