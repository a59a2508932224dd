"""A small HTTP server for an exported SavedModel, which needs only TensorFlow and Pillow.

    python examples/http_server.py runs/finetune-…/export/saved_model
    curl --data-binary @cat.jpg http://127.0.0.1:8000/classify
    {"class": "cats", "probabilities": {"cats": 0.98, "dogs": 0.02}, "turned": false}

`GET /` returns the status and the classes. An image with an EXIF orientation is turned upright, as `convert` does
before training; the answer then has `"turned": true`. TIFF, WebP, transparency and 16-bit images are not supported; use
`tfrecord_tools.images.prepare` for such images. A SavedModel can contain any code, so serve only models that you trust.
"""

from __future__ import annotations

import argparse
import io
import json
import re
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from PIL import ExifTags, Image, ImageOps

MAX_IMAGE_BYTES = 20_000_000
_PIECE_BYTES = 1 << 16


class Refused(Exception):
    """A request that is answered with an error status and a reason."""

    def __init__(self, status: HTTPStatus, reason: str):
        super().__init__(reason)
        self.status = status


class Classifier:
    """An exported SavedModel, which several threads can use."""

    def __init__(self, directory: Path):
        import tensorflow as tf

        self._tf = tf
        self._signatures = tf.saved_model.load(str(directory)).signatures
        self.classes = [name.decode() for name in self._signatures["classes"]()["classes"].numpy()]

    def classify(self, data: bytes) -> dict[str, Any]:
        """Classify an image file.

        Raises:
            Refused: The image cannot be decoded, or the model fails.
        """
        upright = turned_upright(data)
        try:
            answer = self._signatures["serving_default"](image_bytes=self._tf.constant([upright or data]))
        except self._tf.errors.InvalidArgumentError as error:
            raise Refused(
                HTTPStatus.BAD_REQUEST, "not an image, or damaged: must be a JPEG, PNG, GIF or BMP file"
            ) from error
        except self._tf.errors.OpError as error:
            raise Refused(HTTPStatus.INTERNAL_SERVER_ERROR, f"the model failed: {type(error).__name__}") from error
        probabilities = answer["probabilities"].numpy()[0].tolist()
        return {
            "class": answer["class"].numpy()[0].decode(),
            "probabilities": dict(zip(self.classes, probabilities)),
            "turned": upright is not None,
        }


def turned_upright(data: bytes) -> bytes | None:
    """Turn an image upright by its EXIF orientation, and return it as PNG; None if it has no orientation."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.getexif().get(ExifTags.Base.Orientation, 1) not in range(2, 9):
                return None
            upright = ImageOps.exif_transpose(image).convert("RGB")
    except Exception:  # noqa: BLE001  Pillow can raise any error; TensorFlow reports it.
        return None
    encoded = io.BytesIO()
    upright.save(encoded, "PNG")
    return encoded.getvalue()


class Handler(BaseHTTPRequestHandler):
    """Answers the requests of one connection in JSON."""

    timeout = 30  # Seconds to wait for a silent client.

    def __init__(self, classifier: Classifier, *arguments: Any):
        self._classifier = classifier
        super().__init__(*arguments)  # Handles the request.

    def do_GET(self) -> None:
        if self.path == "/":
            self._answer(HTTPStatus.OK, {"status": "ok", "classes": self._classifier.classes})
        else:
            self._answer(HTTPStatus.NOT_FOUND, {"error": "not found: use GET / or POST /classify"})

    def do_POST(self) -> None:
        try:
            data = self._body()
            if self.path != "/classify":
                raise Refused(HTTPStatus.NOT_FOUND, "not found: use GET / or POST /classify")
            self._answer(HTTPStatus.OK, self._classifier.classify(data))
        except Refused as refused:
            self._answer(refused.status, {"error": str(refused)})

    def _body(self) -> bytes:
        content_length = self.headers.get("Content-Length", "")
        if not re.fullmatch("[0-9]{1,15}", content_length):
            raise Refused(HTTPStatus.LENGTH_REQUIRED, "the body must be the image, with a Content-Length header")
        length = int(content_length)
        if length > MAX_IMAGE_BYTES:
            self._discard(length)
            raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the image must have at most {MAX_IMAGE_BYTES:,} bytes")
        data = self.rfile.read(length)
        if len(data) < length:
            raise Refused(HTTPStatus.BAD_REQUEST, f"only {len(data):,} of {length:,} bytes arrived")
        return data

    def _discard(self, length: int) -> None:
        """Read and ignore a body. A client that is still sending could not receive the answer."""
        left = min(length, 10 * MAX_IMAGE_BYTES)
        while left and (piece := self.rfile.read(min(left, _PIECE_BYTES))):
            left -= len(piece)

    def _answer(self, status: HTTPStatus, content: dict[str, Any]) -> None:
        body = json.dumps(content, ensure_ascii=False).encode() + b"\n"
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve an exported SavedModel over HTTP.")
    parser.add_argument("directory", type=Path, help="saved_model directory written by python -m trainers.export")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="port; 0: any free port (default: %(default)s)")
    options = parser.parse_args()
    if not (options.directory / "saved_model.pb").is_file():
        parser.error(f"{options.directory}: is not a SavedModel (it has no saved_model.pb)")
    try:
        classifier = Classifier(options.directory)
    except KeyError as error:
        parser.error(f"{options.directory}: was not written by trainers.export (it has no signature {error})")
    try:
        listening = ThreadingHTTPServer((options.host, options.port), partial(Handler, classifier))
    except OSError as error:
        parser.error(f"--host={options.host} --port={options.port}: {error.strerror}. Use --port=0 for any free port.")
    with listening as server:
        print(f"http://{options.host}:{server.server_port}/ classifies {', '.join(classifier.classes)}", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("stopped")


if __name__ == "__main__":
    main()
