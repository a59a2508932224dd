"""A small HTTP server on an exported SavedModel; needs the directory, TensorFlow and Pillow, nothing of this project.

    python examples/http_server.py runs/finetune-…/export/saved_model
    curl --data-binary @cat.jpg http://127.0.0.1:8000/classify
    {"class": "cats", "probabilities": {"cats": 0.98, "dogs": 0.02}, "turned": false}

`GET /` says that it is up, and its classes. A photograph with an EXIF orientation is turned upright, as `convert` does
before training, and the answer says so: `"turned": true`. TIFF, WebP, transparency and 16 bits are not prepared:
`tfrecord_tools.images.prepare` does that. A SavedModel is a program: serve only models you trust.
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
    """A request that is answered with an error: its status and why."""

    def __init__(self, status: HTTPStatus, why: str):
        super().__init__(why)
        self.status = status


class Classifier:
    """An exported SavedModel; to be used from any number of threads."""

    def __init__(self, directory: Path):
        import tensorflow as tf

        self._tf = tf
        self._signatures = tf.saved_model.load(str(directory)).signatures
        self.classes = [name.decode() for name in self._signatures["classes"]()["classes"].numpy()]

    def classify(self, data: bytes) -> dict[str, Any]:
        """Classifies an image file.

        Raises:
            Refused: It cannot be decoded.
        """
        upright = turned_upright(data)
        try:
            answer = self._signatures["serving_default"](image_bytes=self._tf.constant([upright or data]))
        except self._tf.errors.InvalidArgumentError as error:
            raise Refused(
                HTTPStatus.BAD_REQUEST, "not an image, or damaged: JPEG, PNG, GIF and BMP are read"
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
    """Turns an image with an EXIF orientation, which TensorFlow ignores, and encodes it as PNG; None if it has none."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.getexif().get(ExifTags.Base.Orientation, 1) not in range(2, 9):
                return None
            upright = ImageOps.exif_transpose(image).convert("RGB")
    except Exception:  # noqa: BLE001  Pillow has many parsers; TensorFlow says what is wrong with the image.
        return None
    encoded = io.BytesIO()
    upright.save(encoded, "PNG")
    return encoded.getvalue()


class Handler(BaseHTTPRequestHandler):
    """Answers one connection, in JSON."""

    timeout = 30  # Seconds that a client may be silent for.

    def __init__(self, classifier: Classifier, *arguments: Any):
        self._classifier = classifier
        super().__init__(*arguments)  # Handles the request.

    def do_GET(self) -> None:
        if self.path == "/":
            self._answer(HTTPStatus.OK, {"status": "ok", "classes": self._classifier.classes})
        else:
            self._answer(HTTPStatus.NOT_FOUND, {"error": "GET / and POST /classify are there"})

    def do_POST(self) -> None:
        try:
            data = self._body()
            if self.path != "/classify":
                raise Refused(HTTPStatus.NOT_FOUND, "GET / and POST /classify are there")
            self._answer(HTTPStatus.OK, self._classifier.classify(data))
        except Refused as refused:
            self._answer(refused.status, {"error": str(refused)})

    def _body(self) -> bytes:
        stated = self.headers.get("Content-Length", "")
        if not re.fullmatch("[0-9]{1,15}", stated):
            raise Refused(HTTPStatus.LENGTH_REQUIRED, "the image as the body, with its Content-Length, is expected")
        length = int(stated)
        if length > MAX_IMAGE_BYTES:
            self._pass_over(length)
            raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"at most {MAX_IMAGE_BYTES:,} bytes are taken")
        data = self.rfile.read(length)
        if len(data) < length:
            raise Refused(HTTPStatus.BAD_REQUEST, f"{len(data):,} bytes of {length:,} came")
        return data

    def _pass_over(self, length: int) -> None:
        """Reads a body for nothing: a client that is still sending would see a broken connection, not the answer."""
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
    parser = argparse.ArgumentParser(description="Serves an exported SavedModel.")
    parser.add_argument("directory", type=Path, help="what `python -m trainers.export` wrote")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one (default: %(default)s)")
    options = parser.parse_args()
    if not (options.directory / "saved_model.pb").is_file():
        parser.error(f"{options.directory}: no SavedModel (it has no saved_model.pb)")
    try:
        classifier = Classifier(options.directory)
    except KeyError as error:
        parser.error(f"{options.directory}: not of trainers.export (it has no signature {error})")
    try:
        listening = ThreadingHTTPServer((options.host, options.port), partial(Handler, classifier))
    except OSError as error:
        parser.error(f"--host={options.host} --port={options.port}: {error.strerror}; --port=0 takes a free one")
    with listening as server:
        print(f"http://{options.host}:{server.server_port}/ classifies {', '.join(classifier.classes)}", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("stopped")


if __name__ == "__main__":
    main()
