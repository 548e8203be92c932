"""A stand-in for the W&B backend on 127.0.0.1, with faults on request, for tests of the real client. Standard library only.

It knows the GraphQL operations that the client of ``wandb`` 0.31 asks for, keeps what was sent, and answers every other operation
with an error, as a real server does with a query it does not know. ``Backend.unknown`` lists those.
"""

import base64
import contextlib
import gzip
import http.server
import json
import re
import socket
import threading
import time
from dataclasses import dataclass, field
from typing import Any

ENTITY = "tester"
KEY = "0123456789" * 4


@dataclass
class StoredRun:
    """What the backend holds of one run: history as the lines that were sent, by position."""

    project: str
    name: str
    number: int
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    history: list[str] = field(default_factory=list)
    events: list[str] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)
    state: str = "running"
    exit_codes: list[int] = field(default_factory=list)
    preempted: int = 0

    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.history]

    def epochs(self) -> list[int]:
        return [int(row["epoch"]) for row in self.rows() if "epoch" in row]

    @property
    def id(self) -> str:
        return base64.b64encode(f"Run:v1:{self.name}:{self.project}:{ENTITY}".encode()).decode()


@dataclass
class Fault:
    """One thing that goes wrong: for requests whose operation or path matches ``what``, the next ``times`` times."""

    what: str
    status: int | None = None
    times: float = float("inf")
    delay_s: float = 0.0
    close: bool = False


class Backend:
    """The backend: ``with Backend() as backend`` serves until the block ends; ``stop`` and ``start`` keep the port and the data."""

    def __init__(self) -> None:
        self.runs: dict[tuple[str, str], StoredRun] = {}
        self.views: dict[str, dict[str, Any]] = {}
        self.requests: list[str] = []
        self.unknown: list[str] = []
        self.key = KEY
        self._faults: list[Fault] = []
        self._guard = threading.RLock()
        self._server: http.server.ThreadingHTTPServer | None = None
        self._connections: set[socket.socket] = set()
        # Kept, so that no other process gets the port while the server is down. Nobody listens at this socket.
        self._port = socket.socket()
        self._port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._port.bind(("127.0.0.1", 0))
        self.port = int(self._port.getsockname()[1])

    def __enter__(self) -> "Backend":
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()
        self._port.close()

    def start(self) -> None:
        backend = self

        class Handler(_Handler):
            server_side = backend

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True
            allow_reuse_address = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                """Stay silent: clients that are killed leave connections half closed."""

        self._server = Server(("127.0.0.1", self.port), Handler)
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def stop(self) -> None:
        """Refuse connections from now on and end those there are, as a server that is down: a client keeps them open between requests."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None
        with self._guard:
            for connection in self._connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def connected(self, connection: socket.socket) -> None:
        """Note a connection, which ends with the server; one that came as it was stopped ends at once."""
        with self._guard:
            self._connections.add(connection)
            if self._server is None:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def disconnected(self, connection: socket.socket) -> None:
        with self._guard:
            self._connections.discard(connection)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def environment(self) -> dict[str, str]:
        client = {"WANDB_BASE_URL": self.url, "WANDB_API_KEY": self.key, "WANDB_ENTITY": ENTITY}
        return client | {"WANDB_ERROR_REPORTING": "false", "NO_PROXY": "127.0.0.1"}

    def fault(self, what: str, **how: Any) -> Fault:
        """Let requests whose operation or path matches the regular expression ``what`` go wrong; return the fault, to be cleared."""
        fault = Fault(what, **how)
        with self._guard:
            self._faults.append(fault)
        return fault

    def clear(self) -> None:
        with self._guard:
            self._faults.clear()

    def run(self, name: str, project: str = "soft-labels-repro") -> StoredRun:
        return self.runs[project, name]

    def faulty(self, what: str) -> Fault | None:
        """Note a request and return what goes wrong with it."""
        with self._guard:
            self.requests.append(what)
            for fault in self._faults:
                if re.search(fault.what, what) and fault.times > 0:
                    fault.times -= 1
                    return fault
        return None

    def graphql(self, operation: str, values: dict[str, Any]) -> dict[str, Any]:
        with self._guard:
            answer = getattr(self, f"on_{operation.lower()}", None)
            if answer is None:
                self.unknown.append(operation)
                return {"errors": [{"message": f"no operation {operation} here"}]}
            return {"data": answer(values)}

    def stream(self, project: str, name: str, body: dict[str, Any]) -> dict[str, Any]:
        """Take a post of the file stream: lines are put where their offset says, so a post that is sent twice changes nothing."""
        with self._guard:
            run = self.runs[project, name]
            for file, chunk in (body.get("files") or {}).items():
                content, offset = chunk.get("content") or [], int(chunk.get("offset", 0))
                if file == "wandb-summary.json":
                    run.summary = json.loads(content[-1])
                elif file in ("wandb-history.jsonl", "wandb-events.jsonl"):
                    lines = run.history if file == "wandb-history.jsonl" else run.events
                    lines.extend([""] * (offset + len(content) - len(lines)))
                    lines[offset : offset + len(content)] = content
            if body.get("preempting"):
                run.preempted += 1
            if body.get("complete"):
                code = int(body.get("exitcode", 0))
                run.exit_codes.append(code)
                run.state = "finished" if code == 0 else ("preempted" if body.get("preempting") else "crashed")
            return {"limits": {}}

    def on_viewer(self, values: dict[str, Any]) -> dict[str, Any]:
        viewer = {"id": "VXNlcjox", "entity": ENTITY, "username": ENTITY, "name": ENTITY, "email": "", "admin": False, "flags": "{}"}
        return {"viewer": viewer | {"teams": {"edges": [{"node": {"name": ENTITY}}]}, "apiKeys": {"edges": []}, "deletedAt": None}}

    def on_organizationcoreweaveorganizationid(self, values: dict[str, Any]) -> dict[str, Any]:
        return {"entity": {"organization": None}}

    def on_serverfeaturesquery(self, values: dict[str, Any]) -> dict[str, Any]:
        return {"serverInfo": {"features": []}}

    def on_upsertbucket(self, values: dict[str, Any]) -> dict[str, Any]:
        project, name = values.get("project") or "uncategorized", values["name"]
        new = (project, name) not in self.runs
        run = self.runs.setdefault((project, name), StoredRun(project, name, len(self.runs) + 1))
        run.config = json.loads(values.get("config") or "null") or run.config
        run.about |= {key: values[key] for key in ("displayName", "groupName", "jobType", "tags", "notes") if values.get(key) is not None}
        run.state = "running"
        owner = {"id": "RW50aXR5", "name": ENTITY}
        bucket = {"id": run.id, "name": name, "displayName": run.about.get("displayName"), "description": None, "sweepName": None}
        bucket |= {"config": json.dumps(run.config), "historyLineCount": len(run.history)}
        bucket["project"] = {"id": "UHJvamVjdA==", "name": project, "entity": owner}
        return {"upsertBucket": {"bucket": bucket, "inserted": new}}

    def on_runresumestatus(self, values: dict[str, Any]) -> dict[str, Any]:
        run = self.runs.get((values["project"], values["name"]))
        owner = {"id": "RW50aXR5", "name": ENTITY}
        bucket = None
        if run is not None:
            about = run.about
            bucket = {"id": run.id, "name": run.name, "displayName": about.get("displayName"), "tags": about.get("tags"), "notes": ""}
            bucket |= {"summaryMetrics": json.dumps(run.summary), "config": json.dumps(run.config), "wandbConfig": json.dumps({"t": 1})}
            bucket |= {"historyLineCount": len(run.history), "eventsLineCount": len(run.events), "logLineCount": 0}
            bucket |= {"historyTail": json.dumps(run.history[-1:]), "eventsTail": json.dumps(run.events[-1:])}
        return {"model": {"id": "UHJvamVjdA==", "name": values["project"], "entity": owner, "bucket": bucket}}

    def on_createrunfiles(self, values: dict[str, Any]) -> dict[str, Any]:
        run = self.runs[values["project"], values["run"]]
        files = [{"name": name, "uploadUrl": f"{self.url}/storage/{run.project}/{run.name}/{name}"} for name in values["files"]]
        return {"createRunFiles": {"runID": run.id, "uploadHeaders": [], "files": files}}

    def _node(self, run: StoredRun) -> dict[str, Any]:
        about = run.about
        node = {
            "id": run.id,
            "name": run.name,
            "displayName": about.get("displayName"),
            "tags": about.get("tags") or [],
            "state": run.state,
        }
        node |= {"config": json.dumps(run.config), "summaryMetrics": json.dumps(run.summary), "systemMetrics": "{}", "sweepName": None}
        node |= {"group": about.get("groupName"), "jobType": about.get("jobType"), "historyLineCount": len(run.history), "commit": None}
        node |= {"createdAt": "2026-01-01T00:00:00Z", "heartbeatAt": "2026-01-01T00:00:00Z", "readOnly": False, "projectId": "1"}
        last = max((row["_step"] for row in run.rows()), default=-1)
        keys = {name: {} for row in run.rows() for name in row}
        node["historyKeys"] = {"keys": keys, "lastStep": last, "sets": []}
        return node | {"description": None, "notes": None, "user": {"name": ENTITY, "username": ENTITY}}

    def on_run(self, values: dict[str, Any]) -> dict[str, Any]:
        run = self.runs.get((values["project"], values["name"]))
        return {"project": {"run": None if run is None else self._node(run)}}

    def on_getdefaultentity(self, values: dict[str, Any]) -> dict[str, Any]:
        return self.on_viewer(values)

    def on_runhistorykeys(self, values: dict[str, Any]) -> dict[str, Any]:
        run = self.runs[values["project"], values.get("run") or values["name"]]
        return {"project": {"run": {"historyKeys": self._node(run)["historyKeys"]}}}

    def on_runparquethistory(self, values: dict[str, Any]) -> dict[str, Any]:
        return {"project": {"run": {"parquetHistory": {"parquetUrls": [], "liveData": []}}}}

    def on_historypage(self, values: dict[str, Any]) -> dict[str, Any]:
        run = self.runs[values["project"], values["run"]]
        lines = [line for line in run.history if int(values["minStep"]) <= json.loads(line)["_step"] < int(values["maxStep"])]
        return {"project": {"run": {"history": lines[: int(values["pageSize"])]}}}

    def on_upsertview2(self, values: dict[str, Any]) -> dict[str, Any]:
        number = values.get("id") or f"view-{len(self.views) + 1}"
        view = {"id": number, "name": values.get("name"), "displayName": values.get("displayName"), "spec": values.get("spec")}
        known = self.views.get(number, {})
        self.views[number] = known | {key: value for key, value in view.items() if value is not None}
        return {"upsertView": {"view": self.views[number], "inserted": not known}}

    def on_view(self, values: dict[str, Any]) -> dict[str, Any]:
        named = [view for view in self.views.values() if view["name"] == values.get("viewName")]
        nodes = [{"node": {key: view[key] for key in ("id", "name", "displayName", "spec")}} for view in named]
        return {"project": {"allViews": {"edges": nodes}}}


class _Handler(http.server.BaseHTTPRequestHandler):
    server_side: Backend
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *arguments: Any) -> None:
        """Print nothing."""

    def setup(self) -> None:
        super().setup()
        self.server_side.connected(self.connection)

    def finish(self) -> None:
        self.server_side.disconnected(self.connection)
        super().finish()

    def _body(self) -> bytes:
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return gzip.decompress(content) if self.headers.get("Content-Encoding") == "gzip" else content

    def _answer(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _handle(self) -> None:
        backend, body = self.server_side, self._body()
        request: dict[str, Any] = {}
        what = self.path
        if self.path.endswith("/graphql"):
            request = json.loads(body)
            named = re.search(r"(?:query|mutation)\s+(\w+)", request["query"])
            what = request.get("operationName") or (named.group(1) if named else "anonymous")
        fault = backend.faulty(what)
        if fault is not None:
            time.sleep(fault.delay_s)
            if fault.close:
                self.close_connection = True
                with contextlib.suppress(OSError):
                    self.connection.shutdown(socket.SHUT_RDWR)
                return
            if fault.status is not None:
                self._answer(fault.status, b'{"errors": [{"message": "as the test wants it"}]}')
                return
        if request:
            allowed = base64.b64decode((self.headers.get("Authorization") or "Basic Og==").partition(" ")[2]).endswith(backend.key.encode())
            if not allowed:
                self._answer(401, b'{"errors": [{"message": "user is not logged in"}]}')
                return
            self._answer(200, json.dumps(backend.graphql(what, request.get("variables") or {})).encode())
        elif stream := re.match(r"/files/[^/]+/([^/]+)/([^/]+)/file_stream", self.path):
            self._answer(200, json.dumps(backend.stream(stream[1], stream[2], json.loads(body))).encode())
        elif stored := re.match(r"/storage/([^/]+)/([^/]+)/(.+)", self.path):
            files = backend.runs[stored[1], stored[2]].files
            if self.command == "PUT":
                files[stored[3]] = body
            self._answer(200, files.get(stored[3], b"") if self.command == "GET" else b"")
        else:
            self._answer(404, b"{}")

    do_GET = do_POST = do_PUT = _handle  # noqa: N815  # names of the standard library
