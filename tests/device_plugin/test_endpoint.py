"""Sockets in the kubelet's folder: names, lengths, and never taking what belongs to another."""

import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from device_plugin.endpoint import (
    MAX_PATH_BYTES,
    Endpoint,
    answers,
    endpoint_name,
    endpoint_path,
    move_into_place,
    remove_abandoned,
    temporary_path,
    why_blocked,
)
from nodelib.errors import InvalidValue, NodeError
from nodelib.names import ResourceName
from tests.device_plugin.small_node import SmallNode

PGPU = ResourceName.parse("nvidia.com/pgpu")


@contextlib.contextmanager
def listening(path: Path) -> Iterator[None]:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        yield


def leave_dead_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


def test_the_socket_is_named_after_the_resource() -> None:
    assert endpoint_name(PGPU) == "nvidia.com_pgpu.sock"


def test_the_longest_path_that_the_kernel_takes_is_used_and_a_longer_one_refused() -> None:
    room = MAX_PATH_BYTES - len("/nvidia.com_pgpu.sock")
    path = endpoint_path(Path("/" + "d" * (room - 1)), PGPU)
    assert len(os.fsencode(path)) == MAX_PATH_BYTES
    with pytest.raises(InvalidValue, match="is 108 bytes long and the kernel takes 107: set a shorter alias"):
        endpoint_path(Path("/" + "d" * room), PGPU)


def test_the_kernel_itself_draws_the_line_there(small: SmallNode) -> None:
    for extra, fits in ((0, True), (1, False)):
        name = "s" * (MAX_PATH_BYTES - len(os.fsencode(small.root)) - 1 + extra)
        with socket.socket(socket.AF_UNIX) as listener:
            if fits:
                listener.bind(str(small.root / name))
            else:
                with pytest.raises(OSError, match="too long"):
                    listener.bind(str(small.root / name))


def test_a_temporary_name_is_never_the_longer_one() -> None:
    shortest = endpoint_path(Path("/f"), ResourceName.parse("nvidia.com/g"))
    assert len(os.fsencode(temporary_path(Path("/f")))) < len(os.fsencode(shortest))


def test_a_socket_takes_a_free_place(small: SmallNode) -> None:
    path, temporary = endpoint_path(small.plugins, PGPU), temporary_path(small.plugins)
    with listening(temporary):
        endpoint = move_into_place(temporary, path)
        assert answers(path)
        assert list(small.plugins.iterdir()) == [path]
        assert endpoint.is_in_place()
        endpoint.remove()
        assert list(small.plugins.iterdir()) == []


def test_a_socket_that_a_killed_instance_left_is_replaced(small: SmallNode) -> None:
    path, temporary = endpoint_path(small.plugins, PGPU), temporary_path(small.plugins)
    leave_dead_socket(path)
    assert why_blocked(small.plugins, PGPU) == ""
    with listening(temporary):
        endpoint = move_into_place(temporary, path)
        assert answers(path)
        endpoint.remove()


def test_a_socket_that_answers_is_left_alone(small: SmallNode) -> None:
    path, temporary = endpoint_path(small.plugins, PGPU), temporary_path(small.plugins)
    with listening(path), listening(temporary):
        before = path.stat().st_ino
        assert why_blocked(small.plugins, PGPU) == f"another device plugin answers on {path}: stop one of the two"
        with pytest.raises(NodeError, match="another device plugin answers"):
            move_into_place(temporary, path)
        assert path.stat().st_ino == before
        assert list(small.plugins.iterdir()) == [path]


def test_a_file_that_is_no_socket_is_left_alone(small: SmallNode) -> None:
    path = endpoint_path(small.plugins, PGPU)
    path.write_text("precious")
    assert why_blocked(small.plugins, PGPU) == f"{path} is in the way and no socket: remove it"
    assert path.read_text() == "precious"


def test_a_missing_folder_is_said_in_one_sentence(tmp_path: Path) -> None:
    assert why_blocked(tmp_path / "none", PGPU).startswith(f"there is no folder {tmp_path}/none: is this a node")


def test_a_socket_that_is_not_ours_is_never_removed(small: SmallNode) -> None:
    path = endpoint_path(small.plugins, PGPU)
    leave_dead_socket(path)
    endpoint = Endpoint(path)
    path.unlink()
    with listening(path):
        assert not endpoint.is_in_place()
        endpoint.remove()
        assert answers(path)


def test_of_two_instances_that_start_at_once_over_a_dead_socket_one_wins(small: SmallNode) -> None:
    path = endpoint_path(small.plugins, PGPU)
    for _ in range(20):
        leave_dead_socket(path)
        begin = threading.Barrier(2)
        won: list[Endpoint] = []

        def start(begin: threading.Barrier = begin, won: list[Endpoint] = won) -> None:
            temporary = temporary_path(small.plugins)
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(str(temporary))
                listener.listen()
                begin.wait()
                with contextlib.suppress(NodeError):
                    won.append(move_into_place(temporary, path))
                begin.wait()

        threads = [threading.Thread(target=start) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        (winner,) = won
        assert winner.is_in_place()
        winner.remove()
        assert list(small.plugins.iterdir()) == []


def test_what_a_killed_instance_left_half_placed_is_removed_and_nothing_else(small: SmallNode) -> None:
    dead, fresh, alive, foreign = (temporary_path(small.plugins) for _ in range(4))
    other = small.plugins / "other.sock"
    for path in (dead, fresh, other):
        leave_dead_socket(path)
    foreign.write_text("no socket")
    with listening(alive):
        for path in (dead, alive, foreign, other):
            os.utime(path, (0, 0))
        remove_abandoned(small.plugins)
    assert set(small.plugins.iterdir()) == {fresh, alive, foreign, other}
    remove_abandoned(small.plugins / "absent")
