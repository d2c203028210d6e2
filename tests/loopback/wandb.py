"""A W&B server on the loopback interface: runs, history by file stream, files, artifacts, and ways to fail."""

from __future__ import annotations

import base64
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

_OPERATION = re.compile(r"(?:query|mutation)\s+(\w+)")


class Server(ThreadingHTTPServer):
    """As much of a W&B server as a run needs, or one that fails from the start or once it knows the run."""

    daemon_threads = True

    def __init__(self, errors: bool = False, dies: bool = False, artifacts: bool = True) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.errors, self.dies, self.takes_artifacts = errors, dies, artifacts
        self.runs: dict[str, dict[str, Any]] = {}
        self.rows: dict[int, dict[str, Any]] = {}
        self.keys: set[str] = set()
        self.artifacts: dict[str, dict[str, dict[str, bytes]]] = {}
        self.uploads: dict[str, bytes] = {}
        self.views: list[dict[str, Any]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def summary(self) -> dict[str, Any]:
        """The run's summary as it was uploaded last."""
        return dict(json.loads(self.uploads.get("/files/wandb-summary.json", b"{}")))

    def handle_error(self, request: object, client_address: object) -> None:
        """The client closes connections as it likes."""

    def graphql(self, operation: str, variables: dict[str, Any]) -> dict[str, Any]:
        project = {"id": "p", "name": "rtdyn", "entity": {"id": "e", "name": "someone"}}
        if operation == "RunResumeStatus":
            known = self.runs.get(variables["name"])
            rows = [json.dumps(self.rows[line]) for line in sorted(self.rows)]
            bucket = known and {
                "id": "b",
                "name": variables["name"],
                "displayName": known["displayName"],
                "config": known["config"],
                "summaryMetrics": json.dumps(self.summary),
                "historyLineCount": len(rows),
                "historyTail": json.dumps(rows[-1:]),
                "eventsLineCount": 0,
                "eventsTail": "[]",
                "logLineCount": 0,
                "tags": [],
                "wandbConfig": '{"t": 1}',
            }
            return {"model": {**project, "bucket": bucket}}
        if operation == "UpsertBucket":
            new = variables["name"] not in self.runs
            given = {key: value for key, value in variables.items() if new or value is not None}
            self.runs.setdefault(variables["name"], {}).update(given)
            bucket = {"id": "b", "name": variables["name"], "displayName": "tiny", "config": "{}", "project": project}
            return {"upsertBucket": {"bucket": bucket, "inserted": new}}
        if operation == "CreateRunFiles":
            files = [{"name": name, "uploadUrl": f"{self.url}/files/{name}"} for name in variables["files"]]
            return {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": files}}
        if operation == "GetDefaultEntity":
            return {"viewer": {"id": "u", "entity": "someone", "defaultEntity": {"name": "someone"}}}
        if operation == "Viewer":
            return {"viewer": {"id": "u", "flags": "{}", "entity": "someone", "username": "someone", "teams": None}}
        if operation == "Run":
            known = self.runs.get(variables["name"])
            if known is None:
                return {"project": {"run": None}}
            run = {"id": "b", "name": variables["name"], "displayName": known["displayName"], "projectId": "1"}
            own = {"state": "finished", "tags": [], "user": {"name": "someone", "username": "someone"}}
            own |= {"config": known["config"], "systemMetrics": "{}", "summaryMetrics": "{}", "historyKeys": None}
            return {"project": {"run": {**run, **own, "historyLineCount": len(self.rows)}}}
        if operation == "RunSampledHistory":
            (spec,) = map(json.loads, variables["specs"])
            rows = [self.rows[line] for line in sorted(self.rows)]
            shown = [{key: row[key] for key in spec["keys"]} for row in rows if set(spec["keys"]) <= set(row)]
            return {"project": {"run": {"sampledHistory": [shown]}}}
        if operation == "ProjectInternalId":
            return {"project": {"id": "p", "internalId": "UHJvamVjdEludGVybmFsSWQ6MQ=="}}
        if operation == "GetProjects":
            own = {"entityName": "someone", "createdAt": "2026-01-01T00:00:00Z", "isBenchmark": False, "user": None}
            page = {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False}
            edge = {"node": {"__typename": "Project", "id": "p", "name": "rtdyn", **own}}
            return {"models": {"pageInfo": page, "edges": [edge]}}
        if operation in ("UpsertView2", "upsertView"):
            return self.save_view(variables)
        return self.artifact(operation, variables)

    def save_view(self, variables: dict[str, Any]) -> dict[str, Any]:
        """A workspace or report, as the client saved it."""
        self.views.append({**variables, "spec": json.loads(variables["spec"])})
        of = {"id": "p", "name": variables["projectName"], "entityName": variables["entityName"]}
        view = {key: variables[key] for key in ("type", "name", "displayName", "description", "spec")}
        saved = {**view, "id": f"view{len(self.views)}", "project": of, "updatedAt": "2026-01-01T00:00:00Z"}
        return {"upsertView": {"view": saved, "inserted": True}}

    def artifact(self, operation: str, variables: dict[str, Any]) -> dict[str, Any]:
        """Artifacts by name, each the versions by digest, and these the files that they were committed with."""
        if not self.takes_artifacts:
            return {}
        if operation == "ArtifactType":
            return {"project": {"artifact": None}}
        if operation == "CreateArtifact":
            name, digest = variables["input"]["artifactCollectionName"], variables["input"]["digest"]
            known = digest in self.artifacts.get(name, {})
            sequence = {"id": name, "latestArtifact": None}
            state = "COMMITTED" if known else "PENDING"
            artifact = {"id": f"{name}:{digest}", "state": state, "artifactSequence": sequence}
            return {"createArtifact": {"artifact": artifact}}
        if operation in ("CreateArtifactManifest", "UpdateArtifactManifest"):
            key = variables.get("artifactID") or variables["artifactManifestID"]
            file = {"id": key, "uploadUrl": f"{self.url}/manifest/{key}", "uploadHeaders": []}
            answer = operation[0].lower() + operation[1:]
            return {answer: {"artifactManifest": {"id": key, "file": file}}}
        if operation == "CreateArtifactFiles":
            edges = [
                {"node": {**self.artifact_file(file), "displayName": file["name"]}}
                for file in variables["input"]["artifactFiles"]
            ]
            return {"createArtifactFiles": {"files": {"edges": edges}}}
        if operation == "CommitArtifact":
            name, _, digest = variables["artifactID"].rpartition(":")
            manifest = json.loads(self.uploads[f"/manifest/{variables['artifactID']}"])
            self.artifacts.setdefault(name, {})[digest] = {
                path: self.uploads[f"/artifact/{entry['digest']}"] for path, entry in manifest["contents"].items()
            }
            return {"commitArtifact": {"artifact": {"id": variables["artifactID"], "digest": digest}}}
        return {}

    def artifact_file(self, file: dict[str, Any]) -> dict[str, Any]:
        target = f"{self.url}/artifact/{file['md5']}"
        return {
            "id": file["name"],
            "name": file["name"],
            "uploadUrl": target,
            "uploadHeaders": [],
            "uploadMultipartUrls": None,
            "storagePath": f"s/{file['md5']}",
            "artifact": {"id": file["artifactID"]},
        }


class Answer(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        if self.server.errors or (self.server.dies and self.server.runs):
            return self.reply(500, {})
        if self.path == "/graphql":
            scheme, _, secret = self.headers.get("authorization", "").partition(" ")
            self.server.keys.add(base64.b64decode(secret).decode().removeprefix("api:") if scheme == "Basic" else "")
            query = json.loads(body)
            operation = query.get("operationName") or _OPERATION.search(query["query"])[1]
            return self.reply(200, {"data": self.server.graphql(operation, query.get("variables") or {})})
        if self.command == "PUT":
            self.server.uploads[unquote(self.path)] = body
        if self.path.endswith("/file_stream"):
            history = (json.loads(body).get("files") or {}).get("wandb-history.jsonl")
            if history:
                self.server.rows |= enumerate(map(json.loads, history["content"]), start=history["offset"])
        return self.reply(200, {})

    do_GET = do_PUT = do_POST

    def reply(self, code: int, data: dict[str, Any]) -> None:
        content = json.dumps(data).encode()
        self.send_response(code)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """No line per request in the output of the tests."""


@contextmanager
def serving(**behaviour: bool) -> Iterator[Server]:
    with Server(**behaviour) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()
