"""The fused norm: on a GPU the cases of fused_cases.py for real, elsewhere the same cases in Triton's interpreter.

The interpreter has to be chosen before triton is imported, so it gets a process of its own. It accepts what the
compiler for a GPU would refuse; that compiler needs no GPU, so without one the kernels are compiled as well.
"""

import sys

import pytest
import torch
from running import ROOT, command

if torch.cuda.is_available():
    from fused_cases import *  # noqa: F403
else:

    @pytest.mark.slow
    def test_every_case_in_the_interpreter(tmp_path):
        pytest.importorskip("triton")
        cases = ROOT / "tests" / "helpers" / "fused_cases.py"
        options = ["-p", "no:cacheprovider", "--durations=0", "--basetemp", tmp_path / "cases"]
        tested = command([sys.executable, "-m", "pytest", *options, cases], TRITON_INTERPRET="1")
        assert tested.returncode == 0, tested.stdout[-5000:] + tested.stderr


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_the_compiler_for_a_gpu_takes_the_kernels(dtype, tmp_path, monkeypatch):
    """As for channels in multiples of 16, on an H100; every kernel, with residual and padding and without."""
    triton = pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget

    from zorse.ops import fused_norm_triton as kernels

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    data = ("x", "residual", "out", "grad", "grad_x", "grad_residual")
    rows, columns, shares, few = kernels.tiles(64 * 64, 256)

    def compiled(kernel, **constants):
        types = {}
        for name in kernel.arg_names:
            if name in data:
                types[name] = f"*{dtype}"
            elif name in ("parts", "statistics", "means"):
                types[name] = "*fp32"
            elif name in ("H", "W", "C", "pixels"):
                types[name] = "i32"
            else:
                types[name] = "fp32" if name == "eps" else "constexpr"
        known = {name: value for name, value in constants.items() if name in kernel.arg_names}
        multiples = {
            (place,): [["tt.divisibility", 16]]
            for place, name in enumerate(kernel.arg_names)
            if types[name][0] == "*" or name == "C"
        }
        source = triton.compiler.ASTSource(kernel, types, known, multiples)
        return triton.compile(source, target=GPUTarget("cuda", 90, 32), options=kernels.OPTIONS).asm["ptx"]

    for pad, residual in ((0, False), (1, True)):
        options = {"SLOPE": 0.2, "PAD": pad, "RESIDUAL": residual, "RESIDUAL_PAD": pad if residual else 0}
        for kernel in (kernels.moments, kernels.normalize, kernels.sums, kernels.gradient):
            code = compiled(kernel, **options, SHARES=shares, ROWS=rows, COLUMNS=columns)
            assert "ld.global.v4" in code  # 16 bytes at a time
            assert "atom" not in code
    for kernel in (kernels.join_moments, kernels.join_sums):
        assert "atom" not in compiled(kernel, SHARES=shares, ROWS=rows, COLUMNS=few)


def test_without_triton_it_can_be_imported_and_says_what_is_missing():
    program = (
        "import sys; sys.modules['triton'] = None; import torch; from zorse.ops.fused_norm import fused_norm\n"
        "try: fused_norm(torch.zeros(1, 4, 3, 3), 0.0)\n"
        "except ImportError as error: print(error)"
    )
    said = command([sys.executable, "-c", program])
    assert said.stdout.strip().startswith("the fused norm needs the module triton")
