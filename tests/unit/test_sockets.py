"""PromptSocket, on real connections: nothing is lost, and every error is the one that Python gives."""

import os
import socket
import threading
from collections.abc import Iterator

import pytest

from sockets import PromptSocket

MUCH = os.urandom(1 << 20) * 8  # more than the buffers of both ends take

Pair = tuple[PromptSocket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        caller = socket.create_connection(listener.getsockname(), timeout=5)
        there, _ = listener.accept()
    there.settimeout(5)
    with PromptSocket.taking_over(caller) as here, there:
        yield here, there


def read(connection: socket.socket, number: int) -> bytes:
    received = bytearray()
    while len(received) < number and (piece := connection.recv(1 << 16)):
        received += piece
    return bytes(received)


def send_often(connection: PromptSocket, data: bytes) -> None:
    for _ in range(1000):
        connection.sendall(data)


@pytest.mark.parametrize("timeout", [None, 5.0])
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_all_arrives_also_what_no_buffer_has_room_for(
    kind: type, timeout: float | None, pair: Pair
) -> None:
    here, there = pair
    here.settimeout(timeout)
    received: list[bytes] = []
    reader = threading.Thread(target=lambda: received.append(read(there, len(MUCH) + 5)))
    reader.start()
    here.sendall(kind(b"small"))
    here.sendall(kind(MUCH))
    reader.join(10)
    assert received == [b"small" + MUCH]


def test_a_wait_for_a_peer_that_takes_nothing_ends_with_the_timeout(pair: Pair) -> None:
    here, _ = pair
    here.settimeout(0.2)
    with pytest.raises(TimeoutError):
        here.sendall(MUCH)


def test_without_a_wait_what_is_too_much_is_an_error(pair: Pair) -> None:
    here, _ = pair
    here.setblocking(False)
    with pytest.raises(BlockingIOError):
        here.sendall(MUCH)


def test_a_broken_connection_says_so(pair: Pair) -> None:
    here, there = pair
    there.close()
    with pytest.raises(ConnectionError):
        send_often(here, b"anybody?")


def test_a_closed_one_says_so(pair: Pair) -> None:
    here, _ = pair
    here.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        here.sendall(b"anybody?")


def test_it_begins_as_the_one_that_it_takes_over(pair: Pair) -> None:
    here, _ = pair
    assert here.gettimeout() == 5
    assert not os.get_blocking(here.fileno())
    assert here.getpeername()


@pytest.mark.parametrize("timeout", [None, 0.0, 3.0])
def test_what_is_set_is_what_the_kernel_knows(timeout: float | None, pair: Pair) -> None:
    here, _ = pair
    for value in (timeout, timeout):
        here.settimeout(value)
        assert here.gettimeout() == value
        assert os.get_blocking(here.fileno()) is (value is None)
    here.setblocking(True)
    assert os.get_blocking(here.fileno())
    here.setblocking(False)
    assert not os.get_blocking(here.fileno())
