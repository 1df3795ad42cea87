"""Opens what older office programs and Outlook keep in OLE containers: saved mail (.msg) and old sheets (.xls)."""

import io
from dataclasses import replace

import olefile
from oxmsg import Message
from python_calamine import CalamineWorkbook, PasswordError, SheetVisibleEnum

from assistant.turn.look.html import html_text
from assistant.turn.look.markdown_tables import markdown_table
from assistant.turn.look.opened import LOCKED, Limits, Opened, Refused, pages_of
from mattoni.inputs import Attachment

_OLD = "is an old office file, which is not read: save it as PDF or in today's format."


def open_ole(content: bytes, limits: Limits) -> Opened:
    """Raises Refused for old documents and slides, and for today's office files that are locked, which are kept so."""
    with olefile.OleFileIO(io.BytesIO(content)) as ole:
        names = {entry[0].lower() for entry in ole.listdir()}
    if names & {"encryptedpackage", "encryptioninfo"}:
        raise Refused(LOCKED)
    if names & {"workbook", "book"}:
        return _open_xls(content, limits)
    if "__properties_version1.0" in names:
        return _open_msg(content, limits)
    raise Refused(_OLD)


def _open_xls(content: bytes, limits: Limits) -> Opened:
    try:
        book = CalamineWorkbook.from_filelike(io.BytesIO(content))
    except PasswordError as problem:
        raise Refused(LOCKED) from problem
    shown = [sheet.name for sheet in book.sheets_metadata if sheet.visible == SheetVisibleEnum.Visible]
    texts = []
    for name in shown[: limits.pages]:
        sheet = book.get_sheet_by_name(name)
        rows = [[_shown(value) for value in row] for row in sheet.to_python(skip_empty_area=False)]
        for (top, left), (bottom, right) in sheet.merged_cell_ranges or ():
            for row in rows[top : bottom + 1]:
                row[left : right + 1] = [rows[top][left]] * (min(right, len(row) - 1) - left + 1)
        table = markdown_table(rows)
        texts.append(f"{name}\n\n{table}" if table else "")
    return pages_of(texts, len(shown), "sheets")


def _shown(value: object) -> str:
    """A cell as one reads it: whole numbers without a point, a day without its midnight."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).removesuffix(" 00:00:00")


def _open_msg(content: bytes, limits: Limits) -> Opened:
    """Mail as Outlook saves it ([MS-OXMSG])."""
    message = Message.load(io.BytesIO(content))
    to = ", ".join(filter(None, (recipient.name or recipient.email_address for recipient in message.recipients)))
    told = [("From", message.sender), ("To", to), ("Date", message.sent_date), ("Subject", message.subject)]
    headers = [f"{name}: {' '.join(str(value).split())}" for name, value in told if value]
    body = (message.body or "").replace("\r\n", "\n").strip() or html_text(message.html_body or "<p></p>")
    within = tuple(
        Attachment(attached.file_name or "attachment", attached.file_bytes)
        for attached in message.attachments
        if attached.attached_by_value and attached.file_bytes
    )
    return replace(pages_of(["\n".join(headers) + "\n\n" + body]), within=within)
