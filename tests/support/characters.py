"""Characters that YAML, or somebody on the way to a pod, may treat as special."""

SPECIAL = {
    "an emoji": "🦙",
    "emoji of several": "👩🏽‍🚀🏳️‍🌈",
    "CJK beyond U+FFFF": "𠀀𪛟",
    "the last character": "\U0010ffff",
    "not a character": "\ufffe\uffff\U0001ffff",
    "private use": "\ue000\uf8ff\U000f0000",
    "NEL": "a\x85b",
    "line and paragraph separators": "a\u2028b\u2029c",
    "a byte order mark": "\ufeffa\ufeffb",
    "DEL and C1 controls": "\x7f\x80\x9f",
    "C0 controls": "".join(map(chr, range(0x20))),
    "line breaks of all kinds": "a\r\nb\rc\nd",
    "blanks at both ends": " \t\u00a0a\u3000 ",
    "YAML's own": "- ? : , [] {} # & * ! | > ' \" % @ ` ~ null yes 1e3 <<",
    "escapes as text": "\\ud83e\\udd99 \\n \\x00",
    "right to left": "\u202eabc\u202c \u05d0\u0627",
    "nothing": "",
}
