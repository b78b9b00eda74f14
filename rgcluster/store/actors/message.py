"""What shards and clients on one machine say to each other over a socket: JSON and, behind it, raw arrays.

Nothing that is received is ever executed: it is numbers, text, tuples, and arrays of a few known types.
"""

from __future__ import annotations

import json
import socket
import struct
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["MOST_ANSWER", "MOST_REQUEST", "receive", "send"]

MOST_REQUEST, MOST_ANSWER = 64 << 20, 4 << 30
"""Bytes of arrays."""

_HEAD = struct.Struct("<4sI")
"""A mark and the length of the JSON."""
_MARK = b"RGS1"
_MOST_TEXT = 1 << 20
_TYPES = {kind: np.dtype(kind) for kind in ("|u1", "<i8", "<f4", "<f8")}
_LEAST_SECONDS = 0.001
_TOGETHER = 1 << 16
"""Bytes up to which copying is cheaper than another call of the system."""


def send(line: socket.socket, value: Any) -> None:
    """Send a value made of None, bool, int, str, arrays and tuples of these; TypeError for any other."""
    arrays: list[NDArray[Any]] = []
    text = json.dumps(_described(value, arrays)).encode()
    pieces: list[Any] = [_HEAD.pack(_MARK, len(text)) + text]
    pieces += [array.reshape(-1).view(np.uint8).data for array in arrays if array.size]
    if sum(array.nbytes for array in arrays) <= _TOGETHER:
        pieces = [b"".join(pieces)]
    for piece in pieces:
        line.sendall(piece)


def receive(line: socket.socket, most: int, until: float | None = None) -> Any:
    """Return the next value, its lists as tuples; ConnectionError where the line ended or this is no message.

    At most `most` bytes of arrays are taken. TimeoutError where nothing comes and time.monotonic() is past `until`.
    """
    incoming = _Incoming(line, most, until)
    mark, length = _HEAD.unpack(incoming.read(bytearray(_HEAD.size)))
    if mark != _MARK or length > _MOST_TEXT:
        raise ConnectionError("not a message of a store")
    text = incoming.read(bytearray(length))
    try:
        return incoming.rebuilt(json.loads(text))
    except (ValueError, TypeError, KeyError, RecursionError):
        raise ConnectionError("not a message of a store") from None


def _described(value: Any, arrays: list[NDArray[Any]]) -> Any:
    if isinstance(value, np.ndarray):
        if value.dtype.str not in _TYPES:
            raise TypeError(f"arrays of {value.dtype} are not sent")
        arrays.append(np.ascontiguousarray(value))
        return {"type": value.dtype.str, "shape": value.shape}
    if isinstance(value, (tuple, list)):
        return [_described(each, arrays) for each in value]
    if isinstance(value, np.integer):
        return int(value)
    if value is None or isinstance(value, (bool, int, str)):
        return value
    raise TypeError(f"a {type(value).__name__} is not sent")


class _Incoming:
    def __init__(self, line: socket.socket, most: int, until: float | None) -> None:
        self._line, self._left, self._until = line, most, until

    def rebuilt(self, described: Any) -> Any:
        """Return what `_described` described, its arrays read from the line in the same order."""
        if isinstance(described, list):
            return tuple([self.rebuilt(each) for each in described])
        if not isinstance(described, dict):
            return described
        kind, shape = _TYPES[described["type"]], tuple(described["shape"])
        size = kind.itemsize
        for length in shape:
            size *= length
        if not 0 <= size <= self._left or any(length < 0 for length in shape):
            raise ValueError(f"an array of shape {shape}")
        self._left -= size
        array: NDArray[Any] = np.empty(shape, kind)
        if size:
            self.read(array.reshape(-1).view(np.uint8).data)
        return array

    def read(self, target: Any) -> Any:
        """Fill `target` and return it."""
        view, done = memoryview(target), 0
        while done < len(view):
            if self._until is not None:
                # What is there already is read however late it is.
                self._line.settimeout(max(_LEAST_SECONDS, self._until - time.monotonic()))
            count = self._line.recv_into(view[done:])
            if not count:
                raise ConnectionError("the line ended")
            done += count
        return target
