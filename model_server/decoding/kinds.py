"""What a file is, judged by its bytes, and the sentence for what is no picture for us.

Only the formats of `kind_of` reach a decoder: every decoder is attack surface. The marks are those of the formats' own
specifications.
"""

from __future__ import annotations

import re

_WHAT_WORKS = "PNG, JPEG, WebP, GIF, HEIC and AVIF work."
_STILL = "Please send a still picture, such as a screenshot of it, as PNG or JPEG."
_EXPORT = "Please save it as PNG or JPEG and send that."

_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}
_OTHER_HEIF_BRANDS = {b"mif2", b"mif3", b"miaf", b"unif", b"avci", b"avcs", b"vvic", b"vvis", b"evbi", b"j2ki", b"j2is", b"jpeg"}
_AVIF_BRANDS = {b"avif", b"avis"}
_AUDIO_BRANDS = {b"M4A ", b"M4B ", b"M4P ", b"F4A ", b"F4B ", b"aax "}
_QUICKTIME_BOXES = {b"moov", b"mdat", b"wide", b"pnot", b"skip", b"free", b"moof", b"styp"}

_VIDEO = f"it is a video, not a picture. {_STILL}"
_AUDIO = "it is a sound recording, not a picture."
_ARCHIVE = "it is an archive, not a picture. Please unpack it and send the picture itself."
_OFFICE = "it is an Office document, not a picture. Please send a screenshot of it, or the picture inside it."
_RAW = "it is a camera's RAW file, which I cannot develop. Please export it as JPEG and send that."

_MARKS: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\xff\x0a", f"JPEG XL is not supported. {_EXPORT}"),
    (0, b"\0\0\0\x0cJXL ", f"JPEG XL is not supported. {_EXPORT}"),
    (0, b"\0\0\0\x0cjP  ", f"JPEG 2000 is not supported. {_EXPORT}"),
    (0, b"\xff\x4f\xff\x51", f"JPEG 2000 is not supported. {_EXPORT}"),
    (0, b"II\xbc", f"JPEG XR is not supported. {_EXPORT}"),
    (0, b"\xff\xd8\xff\xf7", f"JPEG-LS is not supported. {_EXPORT}"),
    (12, b"CgBI", f"it is a PNG in the form that only iPhone programs use inside. {_EXPORT}"),
    (0, b"8BPS", f"it is a Photoshop document. {_EXPORT}"),
    (0, b"gimp xcf", f"it is a GIMP document. {_EXPORT}"),
    (0, b"IIU\0", _RAW),
    (0, b"IIRO", _RAW),
    (0, b"IIRS", _RAW),
    (0, b"MMOR", _RAW),
    (0, b"FUJIFILMCCD-RAW", _RAW),
    (6, b"HEAPCCDR", _RAW),
    (0, b"\0MRM", _RAW),
    (0, b"FOVb", _RAW),
    (8, b"CR\x02\0", _RAW),
    (0, b"%!PS", f"it is a PostScript document, not a picture. {_EXPORT}"),
    (0, b"\xc5\xd0\xd3\xc6", f"it is a PostScript document, not a picture. {_EXPORT}"),
    (0, b"PK\x03\x04", _ARCHIVE),
    (0, b"PK\x05\x06", _ARCHIVE),
    (0, b"Rar!", _ARCHIVE),
    (0, b"7z\xbc\xaf\x27\x1c", _ARCHIVE),
    (0, b"\x1f\x8b", _ARCHIVE),
    (0, b"BZh", _ARCHIVE),
    (0, b"\xfd7zXZ\0", _ARCHIVE),
    (0, b"\x28\xb5\x2f\xfd", _ARCHIVE),
    (257, b"ustar", _ARCHIVE),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", _OFFICE),
    (0, b"{\\rtf", _OFFICE),
    (0, b"\x1aE\xdf\xa3", _VIDEO),
    (0, b"FLV\x01", _VIDEO),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", _VIDEO),
    (0, b"\0\0\x01\xba", _VIDEO),
    (0, b"\0\0\x01\xb3", _VIDEO),
    (0, b"ID3", _AUDIO),
    (0, b"fLaC", _AUDIO),
    (0, b"#!AMR", _AUDIO),
    (0, b"MThd", _AUDIO),
    (0, b"qoif", f"QOI is not supported. {_EXPORT}"),
    (0, b"DDS ", f"DDS textures are not supported. {_EXPORT}"),
    (0, b"\x76\x2f\x31\x01", f"OpenEXR is not supported. {_EXPORT}"),
    (0, b"#?RADIANCE", f"Radiance HDR is not supported. {_EXPORT}"),
    (0, b"#?RGBE", f"Radiance HDR is not supported. {_EXPORT}"),
    (0, b"icns", f"Apple icons are not supported. {_EXPORT}"),
    (0, b"\0\0\x01\0", f"Windows icons are not supported. {_EXPORT}"),
    (0, b"\0\0\x02\0\x01\0", f"Windows cursors are not supported. {_EXPORT}"),
    (0, b"SIMPLE  =", f"FITS is not supported. {_EXPORT}"),
    (128, b"DICM", f"DICOM is not supported. {_EXPORT}"),
    (0, b"AT&TFORM", f"it is a DjVu document, not a picture. {_STILL}"),
    (0, b"BPG\xfb", f"BPG is not supported. {_EXPORT}"),
    (0, b"\xd7\xcd\xc6\x9a", f"Windows metafiles are not supported. {_EXPORT}"),
    (40, b" EMF", f"Windows metafiles are not supported. {_EXPORT}"),
    (0, b"\x8aMNG", f"MNG is not supported. {_EXPORT}"),
    (0, b"\x8bJNG", f"JNG is not supported. {_EXPORT}"),
    (0, b"MZ", "it is a program, not a picture."),
    (0, b"\x7fELF", "it is a program, not a picture."),
)
_STARTS = (
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
)
_ITEM = re.compile(rb"infe[\2\3].{7}(?:\0\0)?([A-Za-z0-9 ]{4})", re.DOTALL)
_KNOWN_ITEMS = {b"hvc1", b"av01", b"grid", b"iden", b"iovl", b"Exif", b"mime", b"uri "}
_NETPBM = re.compile(rb"P[1-7fF][\s#]")
_HTML = re.compile(rb"<(?:!doctype\s+html|html|head|body|script|meta|title|iframe)\b")
_PROLOGUE = re.compile(rb"(?:\s|<\?xml[^>]*>|<!--.*?-->)*", re.DOTALL)
_TEXT_CONTROLS = set(range(32)) - {7, 8, 9, 10, 12, 13, 27}


def kind_of(data: bytes) -> str | None:
    """Pillow's name of the format whose decoder may see these bytes; None if none may."""
    for start, kind in _STARTS:
        if data.startswith(start):
            return None if _mark(data) else kind
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WEBP"
    if data.startswith(b"BM") and len(data) >= 18 and int.from_bytes(data[14:18], "little") in _BMP_HEADERS:
        return "BMP"
    brands = _brands(data)
    if brands & _AVIF_BRANDS:
        return "AVIF"
    return "HEIF" if brands & _HEIF_BRANDS else None


def is_foreign_heif(data: bytes) -> bool:
    """Whether a HEIF or AVIF file is whole, and holds what neither of our decoders makes a picture of: uncompressed or JPEG pixels,
    a gain map, a codec of video. Its item types say so (ISO/IEC 23008-12, 6.2)."""
    at = 0
    while at + 8 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big") or len(data) - at
        if size == 1:  # a longer number follows
            size = int.from_bytes(data[at + 8 : at + 16], "big")
        if size < 8:
            return False
        at += size
    return at == len(data) and bool(set(_ITEM.findall(data)) - _KNOWN_ITEMS)


def is_foreign_jpeg(data: bytes) -> bool:
    """Whether a JPEG says that it is lossless, hierarchical, or of other than 8 bits (ISO/IEC 10918-1, B.2.2): our decoder reads
    baseline and progressive ones."""
    at = 2
    while at + 5 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker in _FRAMES:
            return marker not in _READABLE_FRAMES or data[at + 4] != 8
        at += 1 if marker == 0xFF else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return False


_FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
_READABLE_FRAMES = frozenset({0xC0, 0xC1, 0xC2, 0xC9, 0xCA})
_BMP_HEADERS = (12, 16, 40, 52, 56, 64, 108, 124)


def why_no_image(data: bytes, name: str) -> str:
    """The rest of a sentence about bytes that `kind_of` knows nothing of: what they are, and what to send instead.

    `name` is used for SVG alone, whose beginning may say nothing. Never empty."""
    start = data[:4096].removeprefix(b"\xef\xbb\xbf").lower()
    content = start[match.end() :] if (match := _PROLOGUE.match(start)) else start
    if b"<svg" in start or (name.lower().endswith((".svg", ".svgz")) and (start.startswith(b"\x1f\x8b") or b"<" in start[:8])):
        return "SVG drawings are not supported. Please send it as PNG or JPEG."
    if _HTML.match(content) or (content.startswith(b"<") and _HTML.search(content[:1024])):
        return "it is a web page, not a picture. If it is behind a login, please send the picture itself."
    if b"%pdf-" in start[:1024]:
        return f"it is a PDF document, not a picture. {_STILL}"
    if _is_office(data):
        return _OFFICE
    if sentence := _mark(data) or _of_container(data):
        return sentence
    if _NETPBM.match(data):
        return f"Netpbm pictures are not supported. {_EXPORT}"
    if data.startswith((b"\x89PNG", b"GIF8", b"BM", b"\xff\xd8")) and len(data) < 1024:
        return "the file is damaged or cut off."
    if _is_text(data[:4096]):
        return f"it is not a picture that I can read. It is text, and {_WHAT_WORKS}"
    return f"it is not a picture that I can read. {_WHAT_WORKS}"


def _mark(data: bytes) -> str | None:
    return next((sentence for offset, mark, sentence in _MARKS if data.startswith(mark, offset)), None)


def _brands(data: bytes) -> set[bytes]:
    """The major and compatible brands of an ISO base media file (ISO/IEC 14496-12, 4.3); empty if it is none."""
    if data[4:8] != b"ftyp":
        return set()
    end = min(int.from_bytes(data[:4], "big"), 256, len(data))
    return {data[8:12], *(data[i : i + 4] for i in range(16, end - 3, 4))}


def _of_container(data: bytes) -> str | None:
    """A sentence for files whose container says little: ISO base media, QuickTime, RIFF, Ogg, MPEG streams."""
    if brands := _brands(data):
        if b"crx " in brands:
            return _RAW
        if brands & _OTHER_HEIF_BRANDS:
            return f"it is a variant of HEIF that I cannot read. {_EXPORT}"
        return _AUDIO if data[8:12] in _AUDIO_BRANDS else _VIDEO
    if data[4:8] in _QUICKTIME_BOXES:
        return _VIDEO
    if data.startswith(b"RIFF"):
        return {b"AVI ": _VIDEO, b"WAVE": _AUDIO}.get(data[8:12])
    if data.startswith(b"OggS"):
        return _VIDEO if b"theora" in data[:512] else _AUDIO
    if data.startswith(b"FORM") and data[8:12] in (b"AIFF", b"AIFC"):
        return _AUDIO
    if len(data) > 376 and data[0] == data[188] == data[376] == 0x47:  # MPEG transport stream: packets of 188 bytes
        return _VIDEO
    return _AUDIO if _is_mpeg_audio(data) else None


def _is_mpeg_audio(data: bytes) -> bool:
    """Whether it begins with the header of a frame of layer II or III, of which no field has its forbidden value (ISO/IEC 11172-3,
    2.4.1.3). Layer I is the mark of UTF-16."""
    if len(data) < 4 or data[0] != 0xFF or data[1] & 0xE0 != 0xE0:
        return False
    version, layer, bit_rate, sampling_rate = data[1] >> 3 & 3, data[1] >> 1 & 3, data[2] >> 4, data[2] >> 2 & 3
    return version != 1 and layer in (1, 2) and bit_rate not in (0, 15) and sampling_rate != 3


def _is_office(data: bytes) -> bool:
    head = data[:4096]
    return data.startswith(b"PK\x03\x04") and any(
        part in head for part in (b"[Content_Types].xml", b"word/", b"ppt/", b"xl/", b"opendocument")
    )


def _is_text(head: bytes) -> bool:
    is_wide = head.startswith((b"\xff\xfe", b"\xfe\xff"))
    whole = head[: len(head) - 4 if len(head) == 4096 else None]  # no character is cut in the middle that is looked at
    text = whole.decode("utf-16" if is_wide else "utf-8", "replace")
    return bool(text) and not any(ord(letter) in _TEXT_CONTROLS or letter == "\ufffd" for letter in text[:-1])
