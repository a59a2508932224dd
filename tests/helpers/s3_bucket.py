"""A bucket for a test, used through Amazon's client."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any


@dataclasses.dataclass(frozen=True)
class Bucket:
    """A bucket and the operations that tests need."""

    name: str

    @property
    def client(self) -> Any:
        import boto3  # Imported here, because most tests do not need it.

        return boto3.client("s3")

    @property
    def url(self) -> str:
        return f"s3://{self.name}"

    def put(self, key: str, data: bytes) -> None:
        self.client.put_object(Bucket=self.name, Key=key, Body=data)

    def upload(self, directory: Path, prefix: str) -> None:
        for path in directory.rglob("*"):
            if path.is_file():
                self.put(f"{prefix}/{path.relative_to(directory).as_posix()}", path.read_bytes())

    def remove(self, key: str) -> None:
        self.client.delete_object(Bucket=self.name, Key=key)

    def contents(self, prefix: str) -> dict[str, bytes]:
        """Return the bytes of the objects by key, without the prefix."""
        client = self.client
        listed = client.list_objects_v2(Bucket=self.name, Prefix=f"{prefix}/").get("Contents", [])
        objects = {entry["Key"]: client.get_object(Bucket=self.name, Key=entry["Key"]) for entry in listed}
        return {key.removeprefix(f"{prefix}/"): response["Body"].read() for key, response in objects.items()}
