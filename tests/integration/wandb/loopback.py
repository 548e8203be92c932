"""A stand-in for the W&B backend on 127.0.0.1, with faults on request, for tests of the real client. Standard library only.

It knows the GraphQL operations that the client of ``wandb`` 0.31 asks for, keeps what was sent, and answers every other operation
with an error, as a real server does with a query it does not know. ``Backend.unknown`` lists those.
"""

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

Values = dict[str, Any]


@dataclass
class StoredRun:
    """What the backend holds of one run: history as the lines that were sent, by position."""

    project: str
    name: str
    config: Values = field(default_factory=dict)
    summary: Values = field(default_factory=dict)
    history: list[str] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    state: str = "running"
    exit_codes: list[int] = field(default_factory=list)
    preempted: int = 0

    def rows(self) -> list[Values]:
        return [json.loads(line) for line in self.history]

    def epochs(self) -> list[int]:
        return [int(row["epoch"]) for row in self.rows() if "epoch" in row]

    def node(self) -> Values:
        """Return the run as queries have it."""
        last = max((row["_step"] for row in self.rows()), default=-1)
        keys = {"keys": {name: {} for row in self.rows() for name in row}, "lastStep": last, "sets": []}
        known = {"name": self.name, "state": self.state, "historyLineCount": len(self.history), "historyKeys": keys}
        return known | {"config": json.dumps(self.config), "summaryMetrics": json.dumps(self.summary)}


@dataclass
class Fault:
    """One thing that goes wrong: for requests whose operation or path matches ``what``, the next ``times`` times.

    ``close`` ends the connection without an answer; a server that is down does so with every request.
    """

    what: str
    status: int | None = None
    times: float = float("inf")
    delay_s: float = 0.0
    close: bool = False


class Backend:
    """The backend: ``with Backend() as backend`` serves until the block ends."""

    def __init__(self) -> None:
        self.runs: dict[tuple[str, str], StoredRun] = {}
        self.views: dict[str, Values] = {}
        self.requests: list[str] = []
        self.unknown: list[str] = []
        self.faults: list[Fault] = []
        self.lock = threading.RLock()
        self._server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"backend": self}))
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "Backend":
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def environment(self) -> dict[str, str]:
        client = {"WANDB_BASE_URL": self.url, "WANDB_API_KEY": KEY, "WANDB_ENTITY": ENTITY}
        return client | {"WANDB_ERROR_REPORTING": "false", "NO_PROXY": "127.0.0.1"}

    def fault(self, what: str, **how: Any) -> None:
        """Let requests whose operation or path matches the regular expression ``what`` go wrong."""
        self.faults.append(Fault(what, **how))

    def run(self, name: str, project: str = "soft-labels-repro") -> StoredRun:
        return self.runs[project, name]

    def faulty(self, what: str) -> Fault | None:
        """Note a request and return what goes wrong with it."""
        with self.lock:
            self.requests.append(what)
            for fault in self.faults:
                if re.search(fault.what, what) and fault.times > 0:
                    fault.times -= 1
                    return fault
        return None

    def graphql(self, operation: str, values: Values) -> Values:
        with self.lock:
            answer = getattr(self, f"on_{operation.lower()}", None)
            if answer is None:
                self.unknown.append(operation)
                return {"errors": [{"message": f"no operation {operation} here"}]}
            return {"data": answer(values)}

    def stream(self, run: StoredRun, body: Values) -> None:
        """Take a post of the file stream: lines are put where their offset says, so a post that is sent twice changes nothing."""
        with self.lock:
            for file, chunk in (body.get("files") or {}).items():
                content, offset = chunk.get("content") or [], int(chunk.get("offset", 0))
                if file == "wandb-summary.json":
                    run.summary = json.loads(content[-1])
                elif file == "wandb-history.jsonl":
                    run.history[offset : offset + len(content)] = content
            run.preempted += bool(body.get("preempting"))
            if body.get("complete"):
                run.exit_codes.append(int(body.get("exitcode", 0)))
                run.state = "finished" if run.exit_codes[-1] == 0 else ("preempted" if body.get("preempting") else "crashed")

    def on_viewer(self, values: Values) -> Values:
        return {"viewer": {"id": "1", "entity": ENTITY}}

    on_getdefaultentity = on_viewer

    def on_organizationcoreweaveorganizationid(self, values: Values) -> Values:
        return {"entity": {"organization": None}}

    def on_upsertbucket(self, values: Values) -> Values:
        project, name = values.get("project") or "uncategorized", values["name"]
        new = (project, name) not in self.runs
        run = self.runs.setdefault((project, name), StoredRun(project, name))
        run.config = json.loads(values.get("config") or "null") or run.config
        run.state = "running"
        owner = {"name": project, "entity": {"name": ENTITY}}
        return {"upsertBucket": {"bucket": run.node() | {"project": owner}, "inserted": new}}

    def on_runresumestatus(self, values: Values) -> Values:
        run = self.runs.get((values["project"], values["name"]))
        lines = {"wandbConfig": json.dumps({"t": 1}), "eventsLineCount": 0, "logLineCount": 0, "eventsTail": "[]"}
        bucket = None if run is None else run.node() | lines | {"historyTail": json.dumps(run.history[-1:])}
        return {"model": {"bucket": bucket}}

    def on_createrunfiles(self, values: Values) -> Values:
        run = self.runs[values["project"], values["run"]]
        files = [{"name": name, "uploadUrl": f"{self.url}/storage/{run.project}/{run.name}/{name}"} for name in values["files"]]
        return {"createRunFiles": {"runID": run.name, "uploadHeaders": [], "files": files}}

    def on_run(self, values: Values) -> Values:
        run = self.runs.get((values["project"], values["name"]))
        return {"project": {"run": None if run is None else run.node()}}

    def on_runhistorykeys(self, values: Values) -> Values:
        return self.on_run({"name": values.get("run")} | values)

    def on_runparquethistory(self, values: Values) -> Values:
        return {"project": {"run": {"parquetHistory": {"parquetUrls": [], "liveData": []}}}}

    def on_historypage(self, values: Values) -> Values:
        run = self.runs[values["project"], values["run"]]
        lines = [line for line in run.history if int(values["minStep"]) <= json.loads(line)["_step"] < int(values["maxStep"])]
        return {"project": {"run": {"history": lines[: int(values["pageSize"])]}}}

    def on_upsertview2(self, values: Values) -> Values:
        number = values.get("id") or f"view-{len(self.views) + 1}"
        new = {key: values[key] for key in ("name", "displayName", "spec") if values.get(key) is not None}
        self.views[number] = {"id": number} | self.views.get(number, {}) | new
        return {"upsertView": {"view": self.views[number], "inserted": True}}

    def on_view(self, values: Values) -> Values:
        return {"project": {"allViews": {"edges": [{"node": view} for view in self.views.values() if view["name"] == values["viewName"]]}}}


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Stay silent: clients that are killed leave connections half closed."""


class _Handler(http.server.BaseHTTPRequestHandler):
    backend: Backend
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *arguments: Any) -> None:
        """Print nothing."""

    def _answer(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body
        query = json.loads(body) if self.path.endswith("/graphql") else None
        what = self.path
        if query is not None:
            named = re.search(r"(?:query|mutation)\s+(\w+)", query["query"])
            what = named[1] if named else "anonymous"
        fault = self.backend.faulty(what)
        if fault is not None:
            time.sleep(fault.delay_s)
        if fault is not None and fault.close:
            self.close_connection = True
            with contextlib.suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)
        elif fault is not None and fault.status is not None:
            self._answer(fault.status, b'{"errors": [{"message": "as the test wants it"}]}')
        elif query is not None:
            self._answer(200, json.dumps(self.backend.graphql(what, query.get("variables") or {})).encode())
        elif stream := re.match(r"/files/[^/]+/([^/]+)/([^/]+)/file_stream", self.path):
            self.backend.stream(self.backend.runs[stream[1], stream[2]], json.loads(body))
            self._answer(200, b'{"limits": {}}')
        elif stored := re.match(r"/storage/([^/]+)/([^/]+)/(.+)", self.path):
            self.backend.runs[stored[1], stored[2]].files[stored[3]] = body
            self._answer(200, b"")
        else:
            self._answer(404, b"{}")

    do_GET = do_POST = do_PUT = _handle  # noqa: N815  # names of the standard library
