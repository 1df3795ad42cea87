"""Opens e-mail as it is saved (RFC 5322, MIME): the headers that matter, its text, and what is attached to it."""

import re
from dataclasses import replace
from email import message_from_bytes
from email.message import EmailMessage, MIMEPart
from email.policy import default as policy

from assistant.turn.look.html import html_text
from assistant.turn.look.opened import Limits, Opened, pages_of
from mattoni.inputs import Attachment

_SHOWN = ("From", "To", "Cc", "Date", "Subject")
_HEADER = re.compile(rb"([!-9;-~]+):[ \t]")
_FOLDED = (b" ", b"\t")
_SURE = {b"received", b"return-path", b"message-id", b"mime-version", b"delivered-to", b"dkim-signature"}
_USUAL = {b"from", b"to", b"date", b"subject"}


def is_mail(content: bytes) -> bool:
    """Whether it begins with headers, among them those that only mail has: notes may begin with "Subject:" too."""
    head = re.split(rb"\r?\n\r?\n", content[:65_536].lstrip(b"\xef\xbb\xbf\r\n"), maxsplit=1)[0].splitlines()
    if head and head[0].startswith(b"From "):
        head = head[1:]
    matches = [_HEADER.match(line) for line in head if not line.startswith(_FOLDED)]
    if not matches or not all(matches):
        return False
    names = {match.group(1).lower() for match in matches if match}
    return len(names & _USUAL) >= 2 and bool(names & _SURE)


def open_mail(content: bytes, limits: Limits) -> Opened:
    """One page: headers, then the text, as it was written or from its HTML. What is attached is opened after it."""
    message = message_from_bytes(content, policy=policy)
    headers = [f"{name}: {' '.join(str(message[name]).split())}" for name in _SHOWN if message[name]]
    within = [_attachment(part, number) for number, part in enumerate(message.iter_attachments(), start=1)]
    names = [attachment.name for attachment in within]
    if names:
        headers.append(f"Attached: {', '.join(names)}")
    opened = pages_of(["\n".join(headers) + "\n\n" + _body(message)])
    return replace(opened, within=tuple(attachment for attachment in within if attachment.content))


def _body(message: EmailMessage) -> str:
    body = message.get_body(preferencelist=("plain", "html"))
    if body is None:
        return ""
    text = _text(body)
    if body.get_content_subtype() == "html":
        return html_text(text)
    if not text.strip() and (written := message.get_body(preferencelist=("html",))) is not None:
        return html_text(_text(written))
    return text.replace("\r\n", "\n").strip()


def _text(part: MIMEPart) -> str:
    """A part's text; where the charset that it names is unknown or wrong, as UTF-8."""
    try:
        return str(part.get_content())
    except (LookupError, UnicodeError):
        payload = part.get_payload(decode=True)
        return payload.decode(errors="replace") if isinstance(payload, bytes) else ""


def _attachment(part: MIMEPart, number: int) -> Attachment:
    """A file, or a whole mail that was passed on."""
    if part.get_content_type() == "message/rfc822":
        inner = part.get_content()
        return Attachment(part.get_filename() or f"{inner['Subject'] or f'mail {number}'}.eml", inner.as_bytes())
    content = part.get_payload(decode=True)
    ending = part.get_content_subtype()
    return Attachment(
        part.get_filename() or f"attachment {number}.{ending}", content if isinstance(content, bytes) else b""
    )
