"""The chart: throughput against callers, and p99 against load."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")  # needs no display

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from bench.parts.first_runs import of, pooled, speeds_of
from bench.rounds import Round, quantile

_STYLES = {"service": ("Take One", "C0", "o"), "bare": ("bare Celery program", "C7", "s")}


def draw(rounds: Sequence[Round], callers: Sequence[int], path: Path) -> None:
    """Draw both panels into a PNG."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    for system in _STYLES:
        _draw_throughput(left, rounds, callers, system)
        _draw_waiting(right, rounds, callers, system)
    _name(left, "callers at once", "first runs/s", "Throughput against callers")
    _name(right, "load: first runs/s", "p99 of the wait, ms", "p99 against load (points: callers)")
    left.set_xscale("log", base=2)
    left.set_xticks(callers, [str(level) for level in callers])
    left.set_ylim(bottom=0)
    right.set_yscale("log")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _draw_throughput(
    axes: Axes, rounds: Sequence[Round], callers: Sequence[int], system: str
) -> None:
    label, colour, marker = _STYLES[system]
    speeds = [speeds_of(rounds, system, level) for level in callers]
    middles = [quantile(values, 0.5) for values in speeds]
    axes.plot(callers, middles, marker=marker, color=colour, label=label)
    lows, highs = list(map(min, speeds)), list(map(max, speeds))
    axes.fill_between(callers, lows, highs, color=colour, alpha=0.15)


def _draw_waiting(axes: Axes, rounds: Sequence[Round], callers: Sequence[int], system: str) -> None:
    label, colour, marker = _STYLES[system]
    loads = [quantile(speeds_of(rounds, system, level), 0.5) for level in callers]
    waits = [pooled(of(rounds, system, level), 0.99) for level in callers]
    axes.plot(loads, waits, marker=marker, color=colour, label=label)
    for level, load, wait in zip(callers, loads, waits, strict=True):
        axes.annotate(str(level), (load, wait), textcoords="offset points", xytext=(6, 4))


def _name(axes: Axes, x: str, y: str, title: str) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.set_title(title)
    axes.grid(alpha=0.3)
    axes.legend()
