"""An S3 server for tests, in this process, and the fixture `bucket`: an empty place on it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sifthinker.store import s3


@pytest.fixture(scope="module")
def s3_server() -> Iterator[None]:
    """moto's S3 server on loopback."""
    from moto.server import ThreadedMotoServer

    running = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL_S3", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "tester")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "not-a-real-secret")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        s3.Remote("s3://sif").client.create_bucket(Bucket="sif")
        yield
    running.stop()


@pytest.fixture
def bucket(s3_server: None, request: pytest.FixtureRequest) -> str:
    """The address of an empty prefix of a bucket."""
    return f"s3://sif/{abs(hash(request.node.name))}"
