"""As much of a Kubernetes API as helm's `lookup` asks: which kinds there are, and the objects."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

__all__ = ["cluster"]


def answers_of(objects: list[dict[str, Any]]) -> dict[str, Any]:
    """What such a cluster answers, by path."""
    answers: dict[str, Any] = {
        "/version": {"major": "1", "minor": "33", "gitVersion": "v1.33.0"},
        "/api": {"kind": "APIVersions", "versions": ["v1"]},
    }
    groups: dict[str, Any] = {}
    for each in objects:
        group, _, version = each["apiVersion"].rpartition("/")
        root = f"/apis/{each['apiVersion']}" if group else "/api/v1"
        plural = each["kind"].lower().removesuffix("y") + (
            "ies" if each["kind"][-1] == "y" else "s"
        )
        namespaced = "namespace" in each["metadata"] or each["kind"] == "Secret"
        about = {"name": plural, "kind": each["kind"], "namespaced": namespaced, "verbs": ["get"]}
        listed = {"kind": "APIResourceList", "groupVersion": each["apiVersion"], "resources": []}
        resources = answers.setdefault(root, listed)["resources"]
        if plural not in {known["name"] for known in resources}:
            resources.append(about)
        if group:
            named = {"groupVersion": each["apiVersion"], "version": version}
            known = groups.setdefault(
                group, {"name": group, "versions": [], "preferredVersion": named}
            )
            known["versions"] += [named] if named not in known["versions"] else []
        path = f"{root}/namespaces/thalweg/{plural}/{each['metadata']['name']}"
        answers[path] = each
    answers["/apis"] = {"kind": "APIGroupList", "apiVersion": "v1", "groups": [*groups.values()]}
    return answers


@contextmanager
def cluster(objects: list[dict[str, Any]], folder: Path) -> Iterator[Path]:
    """A kubeconfig of a cluster that has these objects."""
    answers = answers_of(objects)

    class Api(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer = answers.get(self.path.partition("?")[0])
            missing = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 404,
                       "reason": "NotFound", "message": "not found"}  # fmt: skip
            content = json.dumps(missing if answer is None else answer).encode()
            self.send_response(404 if answer is None else 200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Api) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        config = folder / "kubeconfig"
        there = {"server": f"http://127.0.0.1:{server.server_port}"}
        context = {"cluster": "c", "user": "u", "namespace": "thalweg"}
        config.write_text(
            json.dumps(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "current-context": "c",
                    "clusters": [{"name": "c", "cluster": there}],
                    "users": [{"name": "u", "user": {}}],
                    "contexts": [{"name": "c", "context": context}],
                }
            )
        )
        yield config
        server.shutdown()
