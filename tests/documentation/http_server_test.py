"""Tests of examples/http_server.py over real connections: the server is a process of its own."""

from __future__ import annotations

import ast
import http.client
import importlib.util
import io
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from image_sources import REPOSITORY
from PIL import Image, ImageOps

from trainers.exporting.export_model import ModelExportConfig, export
from trainers.models import model_file

SERVER = REPOSITORY / "examples/http_server.py"
CLASSES = ("cats", "dögs", "eels")
SIZE = 8


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a SavedModel that classifies an image by its strongest color: red, green, blue."""
    place = tmp_path_factory.mktemp("model")
    pixels = keras.Input((SIZE, SIZE, 3), dtype="uint8")
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(1 / 20)(pixels))
    model = keras.Model(pixels, keras.layers.Softmax()(x))
    info = model_file.ModelInfo(classes=CLASSES, image_size=SIZE)
    model_file.save(model, info, place / "model.keras")
    return export(ModelExportConfig(run=str(place / "model.keras"))).directory


@pytest.fixture(scope="module")
def address(exported: Path) -> Iterator[tuple[str, int]]:
    """Host and port of a running server, which Ctrl-C ends."""
    command = [sys.executable, str(SERVER), str(exported), "--port=0"]
    quiet = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=quiet) as server:
        assert server.stdout is not None
        line = server.stdout.readline()
        assert line.endswith(f"/ classifies {', '.join(CLASSES)}\n"), server.stderr and server.stderr.read()
        host, port = line.split("/")[2].split(":")
        try:
            yield host, int(port)
        finally:
            server.send_signal(signal.SIGINT)
            out, err = server.communicate(timeout=60)
        assert (server.returncode, out) == (0, "stopped\n")
        assert "Traceback" not in err


def ask(
    address: tuple[str, int], method: str, path: str, body: bytes | None = None, **headers: str
) -> tuple[int, dict[str, Any]]:
    connection = http.client.HTTPConnection(*address, timeout=60)
    connection.request(method, path, body, headers)
    response = connection.getresponse()
    assert response.headers["Content-Type"] == "application/json"
    return response.status, json.loads(response.read())


def plain(color: str, kind: str = "JPEG") -> bytes:
    """An image of one color."""
    stream = io.BytesIO()
    Image.new("RGB", (30, 20), color).save(stream, kind)
    return stream.getvalue()


def test_health(address: tuple[str, int]) -> None:
    assert ask(address, "GET", "/") == (200, {"status": "ok", "classes": list(CLASSES)})


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP"])
def test_classifies(address: tuple[str, int], kind: str) -> None:
    status, answer = ask(address, "POST", "/classify", plain("lime", kind))
    assert (status, answer["class"]) == (200, "dögs")
    assert list(answer["probabilities"]) == list(CLASSES)
    expected = np.exp([0, 255 / 20, 0]) / np.exp([0, 255 / 20, 0]).sum()
    np.testing.assert_allclose(list(answer["probabilities"].values()), expected, atol=0.01)


def turned(orientation: int, kind: str) -> tuple[bytes, np.ndarray]:
    """An image, stored turned and marked so, and its upright pixels."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.kron(np.array([[[255, 0, 0], [0, 255, 0]]], np.uint8), np.ones((16, 16, 1), np.uint8)))
    stream = io.BytesIO()
    stored.save(stream, kind, exif=exif, **({"quality": 100, "subsampling": 0} if kind == "JPEG" else {}))
    return stream.getvalue(), np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(stream.getvalue()))))


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_turned_images_are_turned_upright_and_it_is_said(address: tuple[str, int], orientation: int, kind: str) -> None:
    data, upright = turned(orientation, kind)
    status, answer = ask(address, "POST", "/classify", data)
    assert (status, answer["turned"]) == (200, orientation != 1)
    spec = importlib.util.spec_from_file_location("http_server", SERVER)
    assert spec is not None
    assert spec.loader is not None
    server = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(server)
    sent = server.turned_upright(data)
    assert (sent is None) == (orientation == 1)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(sent or data))), upright)


def test_each_client_gets_its_own_answer(address: tuple[str, int]) -> None:
    colors = {"red": "cats", "lime": "dögs", "blue": "eels"}
    asked = [*colors] * 8
    with ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(lambda color: ask(address, "POST", "/classify", plain(color)), asked))
    assert [answer["class"] for _, answer in answers] == [colors[color] for color in asked]


LIMIT = 20_000_000


@pytest.mark.parametrize(
    ("path", "body", "headers", "status", "error"),
    [
        ("/classify", b"<html>", {}, 400, "not an image, or damaged: must be a JPEG, PNG, GIF or BMP file"),
        ("/classify", plain("red")[:200], {}, 400, "not an image, or damaged: must be a JPEG, PNG, GIF or BMP file"),
        ("/classify", b"", {}, 400, "not an image, or damaged: must be a JPEG, PNG, GIF or BMP file"),
        ("/classify", b"\0" * LIMIT, {}, 400, "not an image, or damaged: must be a JPEG, PNG, GIF or BMP file"),
        (
            "/classify",
            b"\0" * (LIMIT + 1),
            {},
            413,
            "the image must have at most 20,000,000 bytes",
        ),  # All of it was sent.
        (
            "/classify",
            b"",
            {"Content-Length": "9" * 5000},
            411,
            "the body must be the image, with a Content-Length header",
        ),
        ("/classify", b"", {"Content-Length": "-1"}, 411, "the body must be the image, with a Content-Length header"),
        (
            "/classify",
            None,
            {"Transfer-Encoding": "chunked"},
            411,
            "the body must be the image, with a Content-Length header",
        ),
        ("/other", plain("red"), {}, 404, "not found: use GET / or POST /classify"),
    ],
)
def test_refuses(
    address: tuple[str, int], path: str, body: bytes | None, headers: dict[str, str], status: int, error: str
) -> None:
    answered, content = ask(address, "POST", path, body, **headers)
    assert answered == status
    assert content["error"].startswith(error)
    assert ask(address, "GET", "/")[0] == 200  # It goes on.


def test_other_paths(address: tuple[str, int]) -> None:
    assert ask(address, "GET", "/x") == (404, {"error": "not found: use GET / or POST /classify"})


def test_a_body_that_breaks_off(address: tuple[str, int]) -> None:
    with socket.create_connection(address, timeout=60) as connection:
        connection.sendall(b"POST /classify HTTP/1.0\r\nContent-Length: 100\r\n\r\nshort")
        connection.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: connection.recv(4096), b""))
    assert answer.startswith(b"HTTP/1.0 400 ")
    assert answer.endswith(b'{"error": "only 5 of 100 bytes arrived"}\n')


def test_a_directory_without_model(tmp_path: Path) -> None:
    ended = subprocess.run([sys.executable, str(SERVER), str(tmp_path)], capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert ended.stderr.endswith(f"error: {tmp_path}: is not a SavedModel (it has no saved_model.pb)\n")


def test_a_port_in_use_and_a_model_of_somebody_else(exported: Path, tmp_path: Path) -> None:
    tf.saved_model.save(tf.Module(), str(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for directory, message in (
            (exported, f"--host=127.0.0.1 --port={port}: Address already in use. Use --port=0 for any free port.\n"),
            (tmp_path, f"{tmp_path}: was not written by trainers.export (it has no signature 'classes')\n"),
        ):
            command = [sys.executable, str(SERVER), str(directory), f"--port={port}"]
            ended = subprocess.run(command, capture_output=True, text=True, check=False)
            assert ended.returncode == 2
            assert ended.stderr.endswith(f"error: {message}")


def test_needs_tensorflow_and_pillow_alone() -> None:
    """It is copied to where the model is served, without this project."""
    nodes = list(ast.walk(ast.parse(SERVER.read_text())))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
    assert {name.split(".")[0] for name in names} - sys.stdlib_module_names == {"tensorflow", "PIL"}
