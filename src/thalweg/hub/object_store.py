"""SeaweedFS: a real S3 server and Iceberg REST catalogue in one process, on loopback only.

Anonymous requests get nothing but health pages: S3 and the Iceberg catalogue want keys, the
filer and the volume server want a JWT over HTTP, every gRPC port wants a client certificate
(mutual TLS), and the master's HTTP interface, which hands out write tokens, is off.
"""

from __future__ import annotations

import datetime
import json
import secrets
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from thalweg.errors import Unavailable
from thalweg.hub import state
from thalweg.settings import Settings

if TYPE_CHECKING:
    import httpx

__all__ = [
    "BUCKETS",
    "TABLE_BUCKET",
    "ask",
    "catalogue",
    "command",
    "is_healthy",
    "keys",
    "let_people_read_tables",
    "prepare",
    "remove_sockets",
]

BUCKETS = ("raw", "runs", "gridded", "users")
TABLE_BUCKET = "warehouse"
GRPC_COMPONENTS = ("volume", "master", "filer", "s3", "admin", "worker", "client")
JWT_KEYS = ("jwt.signing", "jwt.signing.read", "jwt.filer_signing", "jwt.filer_signing.read")


def keys(settings: Settings) -> tuple[str, str]:
    """Access key and secret key of the hub's own identity."""
    access = state.secret(
        settings, "s3-access-key", lambda: "THALWEG" + secrets.token_hex(6).upper()
    )
    return access, state.secret(settings, "s3-secret-key")


def prepare(settings: Settings) -> Path:
    """Write the store's configuration (keys, JWT, certificate) where it is missing."""
    conf = state.folder(settings, "secrets", "object-store")
    access, secret = keys(settings)
    identity = {
        "name": "hub",
        "credentials": [{"accessKey": access, "secretKey": secret}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    state.private_file(conf / "s3.json", json.dumps({"identities": [identity]}))
    if not (conf / "security.toml").exists():
        certificate, key = _self_signed()
        state.private_file(conf / "tls.crt", certificate)
        state.private_file(conf / "tls.key", key)
        state.private_file(conf / "security.toml", _security_toml(conf))
    # The store writes the options of its last start here and would prefer them to ours.
    (state.folder(settings, "object-store") / "mini.options").unlink(missing_ok=True)
    return conf


def command(settings: Settings) -> list[str]:
    """The command line that serves the store; call `prepare` first."""
    conf = settings.data_dir / "secrets" / "object-store"
    port = state.ports(settings)
    flags = {
        "dir": settings.data_dir / "object-store",
        "ip": "127.0.0.1",
        "ip.bind": "127.0.0.1",
        "master.port": port["master"],
        "master.port.grpc": port["master_grpc"],
        "master.telemetry": "false",
        "master.volumeSizeLimitMB": 1024,
        "volume.port": port["volume"],
        "volume.port.grpc": port["volume_grpc"],
        "filer.port": port["filer"],
        "filer.port.grpc": port["filer_grpc"],
        "s3.port": port["s3"],
        "s3.port.grpc": port["s3_grpc"],
        "s3.port.iceberg": port["iceberg"],
        "s3.port.lance": 0,
        "s3.config": conf / "s3.json",
        "s3.autoCreateBucket": "false",
        "admin.port": port["store_admin"],
        "admin.ui": "false",
        "webdav": "false",
        "disableHttp": "true",
        "bucket": ",".join(BUCKETS),
        "tableBucket": TABLE_BUCKET,
    }
    weed = shutil.which("weed", path=str(Path(sys.executable).parent)) or "weed"
    logging = [f"-config_dir={conf}", "-logtostderr"]
    return [weed, *logging, "mini", *(f"-{name}={value}" for name, value in flags.items())]


def remove_sockets(settings: Settings) -> None:
    """Remove the UNIX sockets that the store makes beside its ports and leaves behind."""
    for port in state.ports(settings).values():
        for path in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):  # noqa: S108
            path.unlink(missing_ok=True)


def is_healthy(settings: Settings) -> bool:
    """Whether S3 answers, and the Iceberg catalogue with its table bucket."""
    import httpx

    port = state.ports(settings)
    iceberg = f"http://127.0.0.1:{port['iceberg']}/v1"
    access, secret = keys(settings)
    form = {"grant_type": "client_credentials", "client_id": access, "client_secret": secret}
    try:
        s3 = httpx.get(f"http://127.0.0.1:{port['s3']}/status", timeout=2)
        token = httpx.post(f"{iceberg}/oauth/tokens", data=form, timeout=2)
        bearer = {"Authorization": f"Bearer {token.json().get('access_token')}"}
        tables = httpx.get(f"{iceberg}/{TABLE_BUCKET}/namespaces", headers=bearer, timeout=2)
    except (httpx.HTTPError, ValueError):
        return False
    return s3.is_success and tables.is_success


def ask(settings: Settings, method: str, path: str, service: str, **content: Any) -> httpx.Response:
    """Ask the store for something as the hub itself, signed (SigV4); `content` as httpx has it.

    Unavailable where it does not answer.
    """
    import httpx
    from botocore.auth import SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    url = f"http://127.0.0.1:{state.ports(settings)['s3']}{path}"
    request = httpx.Request(method, url, **content)
    kind = {"content-type": request.headers.get("content-type", "")}
    signed = AWSRequest(method, url, kind, request.content)
    SigV4Auth(Credentials(*keys(settings)), service, "us-east-1").add_auth(signed)
    request.headers.update(dict(signed.headers))
    try:
        with httpx.Client(timeout=30) as client:
            return client.send(request)
    except httpx.HTTPError as error:
        raise Unavailable(f"the object store does not answer: {error}") from None


def catalogue(settings: Settings) -> dict[str, str]:
    """What PyIceberg has to know of the catalogue and its store, but for what lets in."""
    port = state.ports(settings)
    return {
        "uri": f"http://127.0.0.1:{port['iceberg']}",
        "warehouse": f"s3://{TABLE_BUCKET}",
        "s3.endpoint": f"http://127.0.0.1:{port['s3']}",
        "s3.region": "us-east-1",
    }


def let_people_read_tables(settings: Settings) -> None:
    """Let everybody who has keys of this store see what tables there are; nobody but us changes."""
    looks = {"Effect": "Allow", "Principal": "*", "Action": ["s3tables:Get*", "s3tables:List*"]}
    policy = {"Version": "2012-10-17", "Statement": [looks | {"Resource": "*"}]}
    bucket = quote(f"arn:aws:s3tables:us-east-1:000000000000:bucket/{TABLE_BUCKET}", safe="")
    wanted = {"resourcePolicy": json.dumps(policy)}
    answer = ask(settings, "PUT", f"/buckets/{bucket}/policy", "s3tables", json=wanted)
    if not answer.is_success:
        raise Unavailable(f"the object store does not open its catalogue: {answer.text[:200]}")


def _security_toml(conf: Path) -> str:
    jwt = [f'[{name}]\nkey = "{secrets.token_hex(32)}"\n' for name in JWT_KEYS]
    pair = f'cert = "{conf / "tls.crt"}"\nkey = "{conf / "tls.key"}"\n'
    grpc = [f"[grpc.{component}]\n{pair}" for component in GRPC_COMPONENTS]
    return "".join([*jwt, f'[grpc]\nca = "{conf / "tls.crt"}"\n', *grpc])


def _self_signed() -> tuple[str, str]:
    """A certificate that is its own authority, and its key, as PEM."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "thalweg object store")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=3650))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return certificate.public_bytes(pem).decode(), private.decode()
