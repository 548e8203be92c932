"""The backend of these tests itself."""

from __future__ import annotations

import http.client
import json

import pytest
from loopback import Backend

VIEWER = json.dumps({"query": "query Viewer { viewer { id } }", "operationName": "Viewer"})


def test_a_stopped_server_answers_on_no_connection(backend: Backend) -> None:
    """A client that had written its first rows before would otherwise go on writing; on a slow machine it has."""
    connection = http.client.HTTPConnection("127.0.0.1", backend.port)

    def status() -> int:
        connection.request("POST", "/graphql", VIEWER)
        answer = connection.getresponse()
        answer.read()
        return answer.status

    assert status() == 401
    backend.stop()
    with pytest.raises((http.client.HTTPException, OSError)):
        status()
    connection.close()
    backend.start()
    assert status() == 401
    connection.close()
