"""What is run, and how large: the real course on a GPU, and the same with tiny networks on a CPU, to rehearse it."""

from dataclasses import dataclass, field

# The most telling variants first, since time may run out. Words are those of contenders.py; besides, cl is
# channels_last without anything that brings it along, and packed has the last convolution as on a CPU. The second
# word names one of Course.batches.
BEFORE_LAYERS = [("fused-graph", "both"), ("reference", "both"), ("compile-graph", "both")]
AFTER_LAYERS = [
    ("eager", "both"),
    ("compile-fused-graph", "both"),
    ("fused", "both"),
    ("fused-graph-packed", "second"),
    ("graph", "both"),
    ("compile", "both"),
    ("fused-graph", "large"),
    ("eager-cl", "both"),
]
UNPROFILED = ("large", "eager-cl")


@dataclass(frozen=True)
class Course:
    rehearsal: bool
    precision: str
    batches: dict[str, list[int]]
    networks: list[str]  # options of time_variant.py
    of_reference: list[str]  # more of them, for it alone
    warmed: list[str]  # variants whose caches are filled while the tests run, so that compiling costs little later
    gate: str  # the variant that is held against eager
    tests: list[str]  # options of pytest
    pictures: int  # pixels a side, of a data set that has to be drawn
    training: list[str]  # options of train.py
    limit: float  # seconds for everything
    kept: float  # seconds for the real run, which the timings leave alone
    patience: float  # how many times its own limit a section may take
    environment: dict[str, str] = field(default_factory=dict)

    def variant(self, name: str) -> str:
        """As it can be run here: a rehearsal leaves out what needs a GPU, and the minutes that a compiler takes."""
        if not self.rehearsal:
            return name
        return "-".join(word for word in name.split("-") if word not in ("fused", "graph", "compile")) or "eager"


REAL = Course(
    rehearsal=False,
    precision="bf16",
    batches={"both": [4, 1], "second": [1], "large": [16, 8]},
    networks=[],
    of_reference=[],
    warmed=["compile", "compile-fused"],
    gate="fused-graph",
    tests=[
        "tests/ops/test_fused_norm.py", "tests/ops/test_cuda_graph.py",
        "-k", "not interpreter and not compiler_for_a_gpu and not refused",
    ],
    pictures=128,
    training=["--workers", "8"],
    limit=535,
    kept=150,
    patience=1,
)  # fmt: skip

REHEARSAL = Course(
    rehearsal=True,
    precision="fp32",
    batches={"both": [1], "second": [1], "large": [3, 2]},
    networks=["--size", "32", "--channels", "4", "--blocks", "1", "--seconds", "0.1"],
    of_reference=["--blocks", "6"],  # it knows 6 and 9
    warmed=["eager"],
    gate="eager-packed",
    tests=["tests/ops/test_fused_norm.py", "-k", "without_triton"],
    pictures=32,
    training=[
        "--workers", "1", "--preset", "quick", "--evaluate-images", "16", "--crop-size", "32", "--load-size", "36",
        "--generator-channels", "4", "--generator-blocks", "1", "--discriminator-channels", "4",
        "--discriminator-layers", "2",
    ],
    limit=840,  # on a busy machine; alone on 2 cores it takes 2 to 3 minutes
    kept=0,
    patience=5,
    environment={"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
)  # fmt: skip
