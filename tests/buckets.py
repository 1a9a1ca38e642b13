"""A bucket of a test's own, on an S3 server on loopback."""

import logging

import fsspec
import pytest


@pytest.fixture(scope="module")
def server():
    """An S3 server on loopback."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture
def bucket(server, monkeypatch, request):
    """A bucket with one file and one folder below ``data``; put(name, text) adds to it."""
    credentials = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
    for name, value in {**credentials, "AWS_ENDPOINT_URL": server, "NO_PROXY": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    fsspec.filesystem("s3").clear_instance_cache()
    bucket = Bucket(f"bucket-{abs(hash(request.node.name)):x}")
    yield bucket
    fsspec.filesystem("s3").clear_instance_cache()


class Bucket:
    """Writes as another machine would: not through the file system whose memory of listings is tested."""

    def __init__(self, name: str):
        self.name = name
        self.other = fsspec.filesystem("s3", skip_instance_cache=True, use_listings_cache=False)
        self.other.mkdir(name)

    def put(self, key: str, text: str) -> None:
        self.other.call_s3("put_object", Bucket=self.name, Key=key, Body=text.encode())

    def delete(self, key: str) -> None:
        self.other.call_s3("delete_object", Bucket=self.name, Key=key)

    def url(self, path: str = "data") -> str:
        return f"s3://{self.name}/{path}"
