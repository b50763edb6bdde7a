"""Short-lived keys of the object store for a person with an account of their own.

`thalweg up` answers on a UNIX socket that all may open: who asks is who the system says, so nothing
secret has to be known to ask. The store itself makes the keys (STS AssumeRole), for an hour, with a
policy of the form that a group has on AWS (terraform/modules/identity): people read what is shared
and own their part of the bucket `users`. `ask.py` is the other end, the `credential_process` of the
AWS SDKs.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import pwd
import shlex
import socket
import socketserver
import struct
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import yaml

from thalweg import accounts
from thalweg.errors import NotFound, ThalwegError, Unavailable
from thalweg.hub import object_store, state, users
from thalweg.private import private_file
from thalweg.settings import Settings

__all__ = ["issue", "policy", "serving", "write_clients"]

LIFETIME = dt.timedelta(hours=1)
#: Keys that live longer than this are given again to who asks again.
LEFT = dt.timedelta(minutes=20)
SHARED = (*(name for name in object_store.BUCKETS if name != "users"), object_store.TABLE_BUCKET)
STS = "{https://sts.amazonaws.com/doc/2011-06-15/}"


def policy(person: str) -> dict[str, Any]:
    """What a person may do in the store."""
    own = f"arn:aws:s3:::users/{accounts.safe(person)}/*"
    objects = ["s3:GetObject", "s3:PutObject", "s3:DeleteObject"]
    uploads = ["s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"]
    prefix = {"StringLike": {"s3:prefix": [f"{accounts.safe(person)}/*"]}}
    statements: list[tuple[str, list[str], list[str], dict[str, Any]]] = [
        ("List", ["s3:ListBucket"], [f"arn:aws:s3:::{name}" for name in SHARED], {}),
        ("Read", ["s3:GetObject"], [f"arn:aws:s3:::{name}/*" for name in SHARED], {}),
        ("ListOwn", ["s3:ListBucket"], ["arn:aws:s3:::users"], {"Condition": prefix}),
        ("Own", [*objects, *uploads], [own], {}),
    ]
    return {
        "Version": "2012-10-17",
        "Statement": [
            {"Sid": sid, "Effect": "Allow", "Action": actions, "Resource": resources, **condition}
            for sid, actions, resources, condition in statements
        ],
    }


def issue(person: str, settings: Settings) -> dict[str, Any]:
    """New keys of the store for this person, as a `credential_process` gives them.

    Raises
    ------
    NotFound
        The hub knows of no such person, or of none with a Lab.
    Unavailable
        The store makes none.
    """
    groups = yaml.safe_load((settings.home / "hub-config" / "groups.yaml").read_text())
    if not any(groups.get(name, {}).get("lab") for name in users.names(settings).get(person, ())):
        raise NotFound(f"{person} is in no group of this hub that has a Lab: no keys")
    wanted = {
        "Action": "AssumeRole",
        "Version": "2011-06-15",
        "RoleSessionName": f"{accounts.safe(person)}@hub",
        "DurationSeconds": str(int(LIFETIME.total_seconds())),
        "Policy": json.dumps(policy(person)),
    }
    answer = object_store.ask(settings, "POST", "/", "sts", data=wanted)
    if not answer.is_success:
        raise Unavailable(f"the object store makes no keys for {person}: {answer.text[:200]}")
    given = ElementTree.fromstring(answer.text).find(f".//{STS}Credentials")  # noqa: S314
    made = {} if given is None else {each.tag.removeprefix(STS): each.text for each in given}
    return {"Version": 1, **made}


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.issued: dict[str, dict[str, Any]] = {}
        self.lock = threading.Lock()
        accounts.make_run_folder(settings)
        path = _socket(settings)
        path.unlink(missing_ok=True)
        super().__init__(str(path), _Handler)
        path.chmod(0o666)

    def keys_of(self, uid: int) -> dict[str, Any]:
        """Keys for the person whose account this is."""
        name = pwd.getpwuid(uid).pw_name
        for person in users.names(self.settings):
            account = accounts.find(person, self.settings)
            if account and account.uid == uid:
                break
        else:
            raise NotFound(f"the account {name} is nobody's of this hub: no keys")
        with self.lock:
            now = dt.datetime.now(dt.UTC)
            known = self.issued.get(person)
            if not known or dt.datetime.fromisoformat(known["Expiration"]) < now + LEFT:
                known = self.issued[person] = issue(person, self.settings)
        return known


class _Handler(socketserver.BaseRequestHandler):
    server: _Server

    def handle(self) -> None:
        size = struct.calcsize("3i")
        peer = self.request.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
        _, uid, _ = struct.unpack("3i", peer)
        try:
            answer = self.server.keys_of(uid)
        except (ThalwegError, KeyError) as error:
            answer = {"error": str(error)}
        with contextlib.suppress(OSError):  # who asked has gone
            self.request.sendall(json.dumps(answer).encode())


@contextlib.contextmanager
def serving(settings: Settings) -> Iterator[None]:
    """Hand out keys while the block runs."""
    with _Server(settings) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield
        finally:
            server.shutdown()
            _socket(settings).unlink(missing_ok=True)


def write_clients(settings: Settings) -> None:
    """Write what people's programs read to find the data: where it is, and how to get keys."""
    folder = accounts.clients(settings)
    ask = Path(__file__).with_name("ask.py")
    command = shlex.join([sys.executable, "-I", str(ask), str(_socket(settings))])
    port = state.ports(settings)
    catalog = {
        "py-catalog-impl": "thalweg.warehouse.signed.SignedCatalog",
        "uri": f"http://127.0.0.1:{port['iceberg']}",
        "warehouse": f"s3://{object_store.TABLE_BUCKET}",
        "s3.endpoint": f"http://127.0.0.1:{port['s3']}",
        "s3.region": "us-east-1",
    }
    written = {
        "config": f"[default]\nregion = us-east-1\ncredential_process = {command}\n",
        ".pyiceberg.yaml": yaml.safe_dump({"catalog": {settings.warehouse: catalog}}),
    }
    for name, content in written.items():
        private_file(folder / name, content).chmod(0o644)
    folder.chmod(0o755)


def _socket(settings: Settings) -> Path:
    return accounts.run_folder(settings) / "credentials.sock"
