"""A small disk that can be filled up."""

import subprocess
from contextlib import suppress
from pathlib import Path

import pytest


class FullDisk:
    """A tmpfs of `size` bytes, which another file fills up. Skips the test where it cannot be mounted."""

    def __init__(self, directory: Path, size: int) -> None:
        self.mount = directory / "disk"
        self.mount.mkdir()
        options = ["-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(self.mount)]
        mounted = subprocess.run(["mount", *options], capture_output=True, check=False)
        if mounted.returncode != 0:
            pytest.skip("only root can mount a small disk")

    def fail(self) -> None:
        with suppress(OSError), (self.mount / "filler").open("wb", buffering=0) as filler:
            while True:
                filler.write(bytes(512))

    def mend(self) -> None:
        (self.mount / "filler").unlink()

    def close(self) -> None:
        subprocess.run(["umount", "--lazy", str(self.mount)], check=True)
