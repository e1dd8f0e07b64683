"""What a job will take, from what a few samples took: time, bytes and money."""

from dataclasses import dataclass

TAR_BLOCK = 512


@dataclass(frozen=True)
class Prices:
    """What an hour costs, in any currency; None where nobody said."""

    cpu_hour: float | None = None
    gpu_hour: float | None = None


@dataclass(frozen=True)
class Probe:
    """What a sample takes, on average over a few real ones that were thrown away.

    cpu_seconds, gpu_seconds: of one core and of one GPU. stored_bytes: in a shard. rejected: share of the inputs.
    """

    samples: int
    cpu_seconds: float
    stored_bytes: float
    gpu_seconds: float = 0.0
    rejected: float = 0.0


def estimate(samples: int, unit: str, probe: Probe, workers: int, gpus: int = 0, prices: Prices | None = None) -> str:
    """A line on the probe, one on the time and bytes of `samples`, and one on the cost for every price that is known.

    `workers` cores and `gpus` GPUs work at the same time and are paid until the slower side is done. Without GPUs,
    `gpu_seconds` is time of a core.
    """
    cpu_seconds = probe.cpu_seconds + (0.0 if gpus else probe.gpu_seconds)
    made = samples * (1 - probe.rejected)  # a reject costs next to nothing
    elapsed = made * max(cpu_seconds / workers, probe.gpu_seconds / gpus if gpus else 0.0)
    means = f"{1e3 * probe.cpu_seconds:.3g} ms of a core"
    if probe.gpu_seconds:
        means += f" and {1e3 * probe.gpu_seconds:.3g} ms of a {'GPU' if gpus else 'core for the encoder'}"
    hours = f"{workers * elapsed / 3600:.3g} CPU-hours" + (f", {gpus * elapsed / 3600:.3g} GPU-hours" if gpus else "")
    lines = [
        f"probe: {probe.samples} {unit} made and thrown away: {means} and {_size(probe.stored_bytes)} each, "
        f"{probe.rejected:.0%} of the inputs rejected",
        f"expected: {_duration(elapsed)} with {workers} workers"
        f"{f' and {gpus} GPUs' if gpus else ''} like this machine's ({hours}), {_size(made * probe.stored_bytes)}; "
        "the time of the store comes on top",
    ]
    prices = prices or Prices()
    bills = [("CPU", prices.cpu_hour, workers), ("GPU", prices.gpu_hour, gpus)]
    costs = [(name, price, count * elapsed / 3600 * price) for name, price, count in bills if price is not None]
    if costs:
        terms = " + ".join(f"{_money(cost)} at {price:g} per {name}-hour" for name, price, cost in costs)
        lines.append(f"cost: {_money(sum(cost for *_, cost in costs))} ({terms})")
    return "\n".join(lines)


def bytes_in_tar(data: bytes) -> int:
    """What a member of a tar takes: a header, and whole blocks."""
    return TAR_BLOCK + -(-len(data) // TAR_BLOCK) * TAR_BLOCK


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.3g} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"


def _money(amount: float) -> str:
    return f"{amount:,.2f}" if amount >= 1 else f"{amount:.2g}"


def _size(count: float) -> str:
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
