"""The login before a web service: the app behind it hears who asks from the login alone."""

from __future__ import annotations

from typing import Any

import pytest
from tornado.httputil import HTTPHeaders, HTTPServerRequest
from tornado.web import Application

from thalweg.hub.login_proxy import LoginProxy
from thalweg.private import ADMIN, USER


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ({"name": "bob", "admin": False}, ["bob", ""]),
        ({"name": "root", "admin": True}, ["root", "yes"]),
        (None, ["", ""]),
    ],
)
def test_headers_that_a_client_sends_are_replaced(user: Any, expected: list[str]) -> None:
    made, arguments = LoginProxy(command=["true"], base_url="/services/x").make_proxy_handler()
    assert made is not None
    forged = HTTPHeaders({USER.lower(): "admin", ADMIN.upper(): "yes", "Accept": "text/html"})

    class Connection:
        def set_close_callback(self, _: Any) -> None: ...

    request = HTTPServerRequest("POST", "/services/x/", headers=forged, connection=Connection())
    handler = made(Application(), request, **arguments)
    handler.current_user = user
    passed = handler.proxy_request_headers()
    assert [passed.get_list(name) for name in (USER, ADMIN)] == [[each] for each in expected]
    assert passed["Accept"] == "text/html"
