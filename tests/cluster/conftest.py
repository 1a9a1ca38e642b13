"""What the double's own tests share."""

import socket

import pytest


@pytest.fixture
def free_port() -> int:
    """That nobody listened at a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])
