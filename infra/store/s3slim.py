"""botocore's descriptions of S3, cut to what the store's verbs need.

botocore tells every process the host names of all AWS services in all regions,
and S3's 110 operations: 11 MB and 0.3 s. A store needs eight operations of one
bucket at one host. tests/infra/store/test_s3client.py compares with the whole.
"""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

from botocore.loaders import Loader

OPERATIONS = (
    "GetObject", "PutObject", "DeleteObject", "ListObjectsV2", "HeadBucket",
    "CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload", "AbortMultipartUpload",
)  # fmt: skip

_HOST_LABEL = re.compile(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]")  # a dot in it would break AWS's certificate


def at_aws(bucket: str, region: str) -> tuple[str, bool]:
    """Where AWS serves a bucket, and whether paths name it: only where its name cannot be part of a host's."""
    partitions = _read(Path(Loader.BUILTIN_DATA_PATH, "partitions.json"))["partitions"]
    suffix = next(
        (p["outputs"]["dnsSuffix"] for p in partitions if re.match(p["regionRegex"], region)), "amazonaws.com"
    )
    host = f"s3.{region}.{suffix}"
    return (f"https://{bucket}.{host}", False) if _HOST_LABEL.fullmatch(bucket) else (f"https://{host}", True)


def slim_loader(bucket_in_path: bool) -> Any:
    """A component `data_loader` for a session whose only client is S3's, with its endpoint given."""
    return Loader(file_loader=_Files(bucket_in_path))


class _Files:
    """Takes the place of botocore's reader of JSON files; paths come without their suffix."""

    def __init__(self, bucket_in_path: bool):
        self._bucket_in_path = bucket_in_path

    def exists(self, path: str) -> bool:
        return _found(path) is not None

    def load_file(self, path: str) -> Any:
        """The content of `path`; None where there is none."""
        found = _found(path)
        if found is None:
            return None
        if path.endswith("/endpoints"):
            return _NO_ENDPOINTS
        if path.endswith("/endpoint-rule-set-1"):
            return _rules("{Endpoint}/{Bucket}" if self._bucket_in_path else "{Endpoint}")
        data = _read(found)
        return _only(data) if path.endswith("/service-2") else data


def _found(path: str) -> Path | None:
    return next((p for p in (Path(f"{path}.json"), Path(f"{path}.json.gz")) if p.is_file()), None)


def _read(path: Path) -> Any:
    raw = path.read_bytes()
    return json.loads(gzip.decompress(raw) if path.suffix == ".gz" else raw)


_NO_ENDPOINTS = {
    "version": 3,
    "partitions": [
        {
            "partition": "aws",
            "dnsSuffix": "amazonaws.com",
            "regionRegex": ".*",
            "regions": {},
            "defaults": {"hostname": "{service}.{region}.{dnsSuffix}", "signatureVersions": ["s3v4"]},
            "services": {},
        }
    ],
}


def _rules(url: str) -> dict[str, Any]:
    """S3's rule set for one bucket at a given endpoint."""
    scheme = {
        "name": "sigv4",
        "signingName": "s3",
        "signingRegion": "{Region}",
        "disableDoubleEncoding": True,
    }
    return {
        "version": "1.0",
        "parameters": {
            "Bucket": {"type": "String", "required": False, "documentation": ""},
            "Endpoint": {
                "type": "String",
                "required": False,
                "documentation": "",
                "builtIn": "SDK::Endpoint",
            },
            "Region": {"type": "String", "required": False, "documentation": "", "builtIn": "AWS::Region"},
        },
        "rules": [
            {
                "type": "endpoint",
                "conditions": [],
                "endpoint": {"url": url, "properties": {"authSchemes": [scheme]}, "headers": {}},
            }
        ],
    }


def _only(model: dict[str, Any]) -> dict[str, Any]:
    """The service's description with the operations in use and the shapes that these reach."""
    operations = {name: model["operations"][name] for name in OPERATIONS}
    todo = [part["shape"] for each in operations.values() for part in _parts(each)]
    shapes: dict[str, Any] = {}
    while todo:
        name = todo.pop()
        if name not in shapes:
            shape = shapes[name] = model["shapes"][name]
            todo += [member["shape"] for member in shape.get("members", {}).values()]
            todo += [shape[kind]["shape"] for kind in ("member", "key", "value") if kind in shape]
    return {**model, "operations": operations, "shapes": shapes}


def _parts(operation: dict[str, Any]) -> list[dict[str, Any]]:
    ends = [operation[end] for end in ("input", "output") if end in operation]
    return ends + list(operation.get("errors", ()))
