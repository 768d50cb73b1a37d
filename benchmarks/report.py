"""How benchmarks/step.py prints what it found."""

from contenders import GATE_BATCH, GATE_SIZE, GATE_STEPS
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table


def table_of(title: str, *columns: str) -> Table:
    table = Table("", title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1))
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def show_gate(rows: list[dict], first: str, console: Console) -> None:
    """How far all are from the first contender in fp64."""
    title = f"gate: {GATE_SIZE} px, {GATE_BATCH} pairs; relative distance from {first} in fp64, and what is allowed"
    table = table_of(title, "losses", "", "next losses", "gradients", "", "all as one", "cosine", "")
    for row in rows:
        allowed = {name: f"{most:.0e}" for name, most in row["allowed"].items()}
        numbers = []
        for name in ("losses", "next", "gradients", "all"):
            numbers += [f"{row[name]:.1e}"] + [allowed.get(name, "")] * (name in ("losses", "gradients"))
        told = {True: "equal", False: "DIFFERS", None: ""}[row["passed"]]
        table.add_row(f"{row['contender']}, {row['precision']}", *numbers, f"{row['cosine']:.6f}", told)
    console.print(table)
    console.print(
        f"next losses: after {GATE_STEPS - 1} updates; gradients: of the worst tensor, and all as one vector\n"
    )


def show(case: dict, gpu: bool, console: Console) -> None:
    """The tables of one size, batch and precision."""
    # The machine's own speed at a matrix product, which tells whether the machine was quiet.
    before, after = (speed / 1e12 for speed in case["product_flop_per_second"])
    console.rule(f"{case['size']} px, batch {case['batch']}, {case['precision']}", align="left")
    console.print(
        f"a pair takes {case['flop_per_pair'] / 1e12:.4g} TFLOP; the matrix product ran at {before:.3g} TFLOP/s before "
        f"and {after:.3g} after\n"
    )
    # Two tables, speed and cost, a row for each contender.
    speed = table_of("speed", "pairs/s", "p10 to p90", "images/s", "p10 to p90", "ms/step", "ratio", "least to most")
    memory = "MB on the GPU" if gpu else "MB grown"
    count = "kernels/step" if gpu else "operators/step"
    cost = table_of("cost", "TFLOP/s", "of the product", memory, "CPU ms/step", "queueing", count)
    for name, found in case["contenders"].items():
        row = []
        for unit in ("pairs_per_second", "images_per_second"):
            part = found[unit]
            row += [f"{part['median']:#.4g}", f"{part['p10']:#.4g} to {part['p90']:#.4g}"]
        ratio = found["ratio"]
        between = f"{ratio['least']:.2f} to {ratio['most']:.2f}"
        speed.add_row(name, *row, f"{found['ms_per_step']:.4g}", f"{ratio['median']:.2f}", between)
        queueing = "-" if found["queueing_share"] is None else f"{found['queueing_share']:.0%}"
        cost.add_row(
            name,
            f"{found['flop_per_second'] / 1e12:.3g}",
            f"{found['share_of_product']:.1%}",
            f"{found['peak_memory_mb']:.0f}",
            f"{1000 * found['cpu_seconds_per_step']:.4g}",
            queueing,
            str(found["operations_per_step"]),
        )
    console.print(speed, cost)
    if all("ms_by_class" in found for found in case["contenders"].values()):
        console.print(classes(case["contenders"], gpu))


def classes(contenders: dict[str, dict], gpu: bool) -> Table:
    table = table_of(f"ms of a step by class, of the {'GPU' if gpu else 'CPU'}, under the profiler", *contenders)
    parts = [found["ms_by_class"] for found in contenders.values()]
    for name in (name for name in parts[0] if any(part[name] for part in parts)):
        table.add_row(name, *[f"{part[name]:.2f} ({part[name] / sum(part.values()):.0%})" for part in parts])
    return table
