"""An OIDC provider of the tests' own on this machine: the authorisation code flow with PKCE, one button for each person."""

import base64
import hashlib
import secrets
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from html import escape
from typing import Annotated, Any
from urllib.parse import urlencode

import uvicorn
from fastapi import FastAPI, Form, HTTPException, Request
from fastapi.responses import HTMLResponse, RedirectResponse
from joserfc import jwt
from joserfc.jwk import RSAKey

CLIENT, SECRET = "mattoni-tests", "a-secret-of-the-tests"


def make_provider(issuer: str, people: Mapping[str, Mapping[str, Any]]) -> FastAPI:
    """The provider of these people: by the words on their button, what their token says.

    Among it `ago`, which is said in no token: how many seconds ago they signed in.
    """
    app, key = FastAPI(), RSAKey.generate_key(2048, {"kid": "tests", "use": "sig", "alg": "RS256"})
    codes: dict[str, dict[str, str]] = {}

    @app.get("/.well-known/openid-configuration")
    def metadata() -> dict[str, Any]:
        return {
            "issuer": issuer,
            "authorization_endpoint": f"{issuer}/authorize",
            "token_endpoint": f"{issuer}/token",
            "jwks_uri": f"{issuer}/jwks",
            "response_types_supported": ["code"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256"],
            "code_challenge_methods_supported": ["S256"],
        }

    @app.get("/jwks")
    def jwks() -> dict[str, Any]:
        return {"keys": [key.as_dict(private=False)]}

    @app.get("/authorize")
    def authorize(request: Request) -> HTMLResponse:
        asked = dict(request.query_params)
        assert asked["client_id"] == CLIENT and asked["response_type"] == "code" and "openid" in asked["scope"].split()
        assert asked["code_challenge_method"] == "S256"
        links = "".join(
            f'<p><a href="/consent?{escape(urlencode(asked | {"who": who}))}">{escape(who)}</a></p>' for who in people
        )
        return HTMLResponse(f"<h1>Who are you?</h1>{links}")

    @app.get("/consent")
    def consent(request: Request) -> RedirectResponse:
        asked, code = dict(request.query_params), secrets.token_hex(16)
        codes[code] = asked
        back = urlencode({"code": code, "state": asked["state"]})
        return RedirectResponse(f"{asked['redirect_uri']}?{back}", status_code=302)

    @app.post("/token")
    def token(
        request: Request,
        code: Annotated[str, Form()],
        redirect_uri: Annotated[str, Form()],
        code_verifier: Annotated[str, Form()],
    ) -> dict[str, Any]:
        sent = base64.b64decode(request.headers["authorization"].removeprefix("Basic ")).decode()
        asked = codes.pop(code, None)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(code_verifier.encode()).digest()).rstrip(b"=").decode()
        if sent != f"{CLIENT}:{SECRET}" or asked is None or asked["redirect_uri"] != redirect_uri:
            raise HTTPException(401)
        if challenge != asked["code_challenge"]:
            raise HTTPException(400)
        now, told = int(time.time()), dict(people[asked["who"]])
        ago = told.pop("ago", 0)
        claims = {"iss": issuer, "aud": CLIENT, "iat": now - ago, "exp": now + 600, "nonce": asked["nonce"], **told}
        signed = jwt.encode({"alg": "RS256", "kid": "tests"}, claims, key)
        return {"access_token": secrets.token_hex(8), "token_type": "Bearer", "expires_in": 600, "id_token": signed}

    return app


@contextmanager
def provided(port: int, people: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """The provider while it runs; where it says what it can do."""
    issuer = f"http://127.0.0.1:{port}"
    server = uvicorn.Server(
        uvicorn.Config(make_provider(issuer, people), host="127.0.0.1", port=port, log_level="error")
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.05)
    yield f"{issuer}/.well-known/openid-configuration"
    server.should_exit = True
    thread.join(10)
