"""PromptLines, on real pipes and files: each line arrives whole; a slow reader stops only who writes."""

import io
import os
import select
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import pytest

from log_lines import PromptLines

MORE_THAN_A_PIPE = 2_000
LINE = b"x" * 199

Pipe = tuple[int, BinaryIO]


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    reader, writer = os.pipe()
    stream = os.fdopen(writer, "wb")
    yield reader, stream
    os.close(reader)
    with suppress(BrokenPipeError):  # of what a test could not send
        stream.close()


def write(lines: PromptLines, name: str, number: int) -> None:
    for n in range(number):
        lines.info(b"%s %d %s" % (name.encode(), n, LINE))


def expected(name: str, number: int) -> list[bytes]:
    return [b"%s %d %s" % (name.encode(), n, LINE) for n in range(number)]


def read_lines(reader: int, number: int) -> list[bytes]:
    received = b""
    while received.count(b"\n") < number:
        assert select.select([reader], [], [], 5)[0], "nothing more comes"
        received += os.read(reader, 1 << 16)
    return received.splitlines()


def test_lines_of_several_threads_arrive_whole_and_in_order(pipe: Pipe) -> None:
    reader, stream = pipe
    lines, names = PromptLines(stream), ("one", "two", "three")
    for name in names:
        arguments = (lines, name, MORE_THAN_A_PIPE)
        threading.Thread(target=write, args=arguments, daemon=True).start()
    received = read_lines(reader, len(names) * MORE_THAN_A_PIPE)
    for name in names:
        own = [line for line in received if line.startswith(name.encode() + b" ")]
        assert own == expected(name, MORE_THAN_A_PIPE)


def test_a_full_pipe_stops_who_writes_and_nobody_else() -> None:
    # A process of its own: if a write kept the GIL while it waits, nothing in this one could tell.
    program = [sys.executable, "-c", _WRITES_MORE_THAN_IS_READ.format(MORE_THAN_A_PIPE, LINE)]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            assert read_lines(process.stderr.fileno(), 1) == [b"the pipe is full"]
            received = read_lines(process.stdout.fileno(), MORE_THAN_A_PIPE)
            assert process.wait(10) == 0
        finally:
            process.kill()
    assert received == [LINE] * MORE_THAN_A_PIPE


_WRITES_MORE_THAN_IS_READ = """
import select, sys, threading, time
from log_lines import PromptLines

def write():
    for _ in range({}):
        lines.info({})

lines = PromptLines(sys.stdout.buffer)
writer = threading.Thread(target=write)
writer.start()
while select.select([], [sys.stdout], [], 0)[1]:
    time.sleep(0.01)
print("the pipe is full", file=sys.stderr, flush=True)
"""


def test_others_who_have_the_pipe_still_wait_where_they_did(pipe: Pipe) -> None:
    _, stream = pipe
    PromptLines(stream).info(b"a line")
    assert os.get_blocking(stream.fileno())


def test_a_pipe_that_nobody_reads_any_more_says_so(pipe: Pipe) -> None:
    reader, stream = pipe
    lines = PromptLines(stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), reader)
    with pytest.raises(BrokenPipeError):
        lines.info(b"anybody?")


def test_a_file_gets_every_line_at_its_end(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"before\n")
    with path.open("ab") as stream:
        lines = PromptLines(stream)
        lines.info(b"first")
        stream.write(b"another's\n")
        stream.flush()
        lines.error(b"last")
    assert path.read_bytes() == b"before\nfirst\nanother's\nlast\n"


def test_what_is_no_file_is_written_to_all_the_same() -> None:
    stream = io.BytesIO()
    PromptLines(stream).info(b"a line")
    assert stream.getvalue() == b"a line\n"
