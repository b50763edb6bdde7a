"""The Iceberg catalogue for who has keys of the SDK's default chain, each request signed (SigV4).

PyIceberg signs too, but by boto3, which is not here; botocore is. SeaweedFS takes signed requests
that read and refuses those that write, as the role of a group on AWS does.
"""

from __future__ import annotations

from typing import Any

from pyiceberg.catalog.rest import RestCatalog

__all__ = ["SignedCatalog"]


class SignedCatalog(RestCatalog):
    """PyIceberg's catalogue, for `py-catalog-impl` of its configuration."""

    def _create_session(self) -> Any:
        session = super()._create_session()
        session.auth = _signer(self.properties.get("s3.region", "us-east-1"))
        return session


def _signer(region: str) -> Any:
    """Signs a request of `requests` with the keys of the default chain, renewed when they age."""
    import botocore.session
    from botocore.auth import SigV4Auth
    from botocore.awsrequest import AWSRequest

    session = botocore.session.get_session()

    def sign(request: Any) -> Any:
        kind = request.headers.get("content-type", "")
        signed = AWSRequest(request.method, request.url, {"content-type": kind}, request.body)
        SigV4Auth(session.get_credentials(), "s3", region).add_auth(signed)
        request.headers.update(signed.headers)
        return request

    return sign
