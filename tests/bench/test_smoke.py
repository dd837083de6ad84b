"""The benchmark runs, so that it cannot rot. It is held to no figures here: those are `make bench`'s."""

import json
import subprocess
import sys
from pathlib import Path

from devstack.processes import ROOT, clean_environment

LIMIT_SECONDS = 110  # it took 51 beside other tests on the same two cores


def test_the_smoke_of_the_benchmark_measures_every_part(tmp_path: Path) -> None:
    page = tmp_path / "performance.md"
    page.write_text("What it means.\n\n## The last run\n\nA table of another day.\n")
    command = [sys.executable, "-m", "bench", "--smoke", "--out", str(tmp_path)]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=clean_environment({}),
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    numbers = json.loads((tmp_path / "performance.json").read_text())
    assert {each["system"] for each in numbers["first_runs"]} == {"service", "bare"}
    assert set(numbers["replays"]) >= {"service: replay of run", "service: GET /jobs/{id}"}
    assert {"cpu", "memory", "flat_runs", "flat_sweeps", "two_workers", "slow"} <= set(numbers)
    assert (tmp_path / "performance.png").stat().st_size > 0
    assert page.read_text().startswith("What it means.\n\n## The last run\n\n### First runs\n")
    assert "another day" not in page.read_text()
