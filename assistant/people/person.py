"""Who somebody is, by what their provider says of them. Knows nothing of pages, and keeps nothing."""

import hashlib
import json
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mattoni.errors import MattoniError

_LONGEST = 80


@dataclass(frozen=True)
class Person:
    """Somebody who signed in.

    id        names their data folder: made of what the provider promises never to give to another, so that a name or an
              address that changes, or has signs in it that lead elsewhere, changes nothing
    name      to be shown; signs that cannot be seen are taken out
    email     the same; empty where the provider tells none
    is_verified  whether the provider says that the address is theirs
    since     when they signed in, in seconds since 1970
    """

    id: str
    name: str
    email: str
    is_verified: bool
    since: float


def person_of(claims: Mapping[str, Any]) -> Person:
    """Who a provider's token is about (OpenID Connect Core 1.0, section 5.7: issuer and subject together name a person).

    Raises MattoniError where it does not say.
    """
    issuer, subject, since = claims.get("iss"), claims.get("sub"), claims.get("iat")
    if not (isinstance(issuer, str) and issuer and isinstance(subject, str) and subject):
        raise MattoniError(
            "The provider does not say who you are (iss and sub): ask whoever runs it for the scope openid."
        )
    if isinstance(since, bool) or not isinstance(since, int | float):
        raise MattoniError(
            "The provider does not say when you signed in (iat): ask whoever runs it for tokens with it."
        )
    # As JSON in ASCII: no two pairs are the same text, and half a pair of surrogates is text too.
    told = json.dumps([issuer, subject]).encode("ascii")
    identity = hashlib.sha256(told).hexdigest()[:32]
    email = shown(claims.get("email"))
    name = shown(claims.get("name")) or shown(claims.get("preferred_username")) or email or f"Person {identity[:6]}"
    return Person(identity, name, email, claims.get("email_verified") in (True, "true"), float(since))


def shown(told: object) -> str:
    """A name as it can be shown anywhere: in one line, no longer than a line, without signs that hide or turn round others."""
    if not isinstance(told, str):
        return ""
    # C: controls, marks of direction, surrogates, what is not assigned.
    visible = "".join(sign if unicodedata.category(sign)[0] not in "CZ" else " " for sign in told)
    return " ".join(visible.split())[:_LONGEST]
