"""Which charsets are decoded, and how: an allowlist, so that no mail picks a codec that rewrites its text.

UTF-7, unicode_escape, punycode and the like turn harmless octets into markup and are never decoded; such text is
shown as the ASCII it is.
"""

from typing import Final

_ALIASES: Final = {
    "us-ascii": "utf-8",  # what calls itself ASCII and is not, is most often UTF-8
    "ascii": "utf-8",
    "ansi_x3.4-1968": "utf-8",
    "utf-8": "utf-8",
    "utf8": "utf-8",
    "unicode-1-1-utf-8": "utf-8",
    "utf-16": "utf-16",
    "utf-16le": "utf-16-le",
    "utf-16be": "utf-16-be",
    "utf-32": "utf-32",
    "iso-8859-1": "cp1252",  # as every reader of mail and the WHATWG encoding standard take it
    "latin1": "cp1252",
    "iso8859-1": "cp1252",
    "iso-8859-8-i": "iso8859-8",
    "iso-8859-8-e": "iso8859-8",
    "koi8-r": "koi8-r",
    "koi8-u": "koi8-u",
    "koi8-ru": "koi8-u",
    "gb2312": "gb18030",
    "gb_2312-80": "gb18030",
    "gbk": "gb18030",
    "x-gbk": "gb18030",
    "cp936": "gb18030",
    "gb18030": "gb18030",
    "big5": "big5hkscs",
    "big5-hkscs": "big5hkscs",
    "cp950": "cp950",
    "euc-jp": "euc_jp",
    "x-euc-jp": "euc_jp",
    "shift_jis": "cp932",
    "shift-jis": "cp932",
    "sjis": "cp932",
    "x-sjis": "cp932",
    "windows-31j": "cp932",
    "cp932": "cp932",
    "iso-2022-jp": "iso2022_jp_ext",
    "iso-2022-jp-1": "iso2022_jp_1",
    "iso-2022-jp-2": "iso2022_jp_2",
    "iso-2022-jp-3": "iso2022_jp_3",
    "euc-kr": "cp949",
    "ks_c_5601-1987": "cp949",
    "ks_c_5601": "cp949",
    "ksc5601": "cp949",
    "cp949": "cp949",
    "iso-2022-kr": "iso2022_kr",
    "johab": "johab",
    "tis-620": "cp874",
    "windows-874": "cp874",
    "iso-8859-11": "cp874",
    "macintosh": "mac_roman",
    "x-mac-roman": "mac_roman",
    "x-mac-cyrillic": "mac_cyrillic",
}
CODECS: Final = (
    _ALIASES
    | {f"iso-8859-{n}": f"iso8859-{n}" for n in (2, 3, 4, 5, 6, 7, 8, 9, 10, 13, 14, 15, 16)}
    | {f"{lead}-{n}": f"cp{n}" for n in range(1250, 1259) for lead in ("windows", "x-cp")}
    | {
        f"{lead}{n}": f"cp{n}"
        for n in (437, 850, 852, 855, 857, 860, 862, 863, 865, 866, 869)
        for lead in ("cp", "ibm")
    }
    | {f"cp{n}": f"cp{n}" for n in range(1250, 1259)}
)
"""Charset names of mail, in lower case, and the codec each is decoded with."""


def codec_of(charset: str) -> str | None:
    """Return the codec for a charset's name; None for one that is not decoded."""
    return CODECS.get(charset.strip().lower())


def decode(octets: bytes, charset: str = "") -> str:
    """Return octets as text, never raising; an unknown charset is UTF-8, and failing that Windows-1252."""
    codec = codec_of(charset)
    if codec is not None and codec != "utf-8":
        return octets.decode(codec, "replace")
    try:
        return octets.decode("utf-8")
    except UnicodeDecodeError:
        pass
    return octets.decode("utf-8" if charset.lower().startswith("utf") else "cp1252", "replace")
