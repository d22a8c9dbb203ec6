"""python guarded_process.py GRAPH: run arrays from stdin through a graph; the result, or the error, to stdout (`guarded.py`)."""

import io
import sys
from typing import IO, Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

_LENGTH = 8  # bytes


def send(array: NDArray[Any], stream: IO[bytes]) -> None:
    """Write an array as its length in bytes and a .npy file: numpy itself reads and write no pipe."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    stream.write(len(buffer.getvalue()).to_bytes(_LENGTH, "big") + buffer.getvalue())
    stream.flush()


def receive(stream: IO[bytes]) -> NDArray[Any]:
    """Read what `send` wrote; EOFError where the stream has ended."""
    body = stream.read(int.from_bytes(stream.read(_LENGTH), "big"))
    if not body:
        raise EOFError
    array: NDArray[Any] = np.load(io.BytesIO(body))
    return array


def main() -> None:
    """Until stdin ends."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
    while True:
        try:
            array = receive(sys.stdin.buffer)
        except EOFError:
            return
        try:
            (answer,) = session.run(None, {session.get_inputs()[0].name: array})
        except Exception as error:  # noqa: BLE001 # whatever it raises is the answer
            answer = np.array(f"onnxruntime {ort.__version__} cannot run {array.shape} through this graph: {error}")
        send(answer, sys.stdout.buffer)


if __name__ == "__main__":
    main()
