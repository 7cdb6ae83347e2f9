"""Decompression of LZString text, the LZ78 variant that generals.io keeps its replays in, with a bound.

The bits of the file, highest of each byte first, are a sequence of codes; each code's own bits come lowest first,
and codes are as wide as the dictionary needs. Codes 0 and 1 announce a new character of 8 or 16 bits, 2 ends the
text, all others name an earlier phrase. (pieroxy.net/blog/pages/lz-string: "compressed" of version 1.4, as the
big-endian bytes of its 16-bit units.)

Libraries that decode it keep every phrase as a string: a file of 64 KiB can then demand 700 MB. Here a phrase is a
place and a length in the text so far, and the text has a limit.
"""

from __future__ import annotations

from array import array

from expkit.errors import ShardError

NEW_8_BITS, NEW_16_BITS, END = 0, 1, 2
_FIRST_PHRASE = 3


class _Codes:
    """Reads numbers of any width off the file."""

    def __init__(self, data: bytes):
        self._bits = format(int.from_bytes(data, "big"), f"0{8 * len(data)}b") if data else ""
        self._at = 0

    def read(self, width: int) -> int:
        end = self._at + width
        if end > len(self._bits):
            raise ShardError(
                "the compressed text breaks off before its end mark; the file is cut short or no .gior file"
            )
        number = int(self._bits[self._at : end][::-1], 2)
        self._at = end
        return number


def decompress(data: bytes, limit: int) -> str:
    """The text in `data`. Raises ShardError for what LZString did not write and for texts of more than `limit`
    UTF-16 units; takes time and memory in proportion to the sizes of file and text."""
    codes = _Codes(data)
    text = array("H")
    # Phrases by code: where in the text each stands, and its length. The first three codes have a meaning.
    start, length = [0] * _FIRST_PHRASE, [0] * _FIRST_PHRASE
    width, room = 2, 1  # bits of a code, and codes left before they grow by one
    previous = (0, 0)
    while True:
        code = codes.read(width)
        if code == END:
            return _joined(text)
        at = len(text)
        if code in (NEW_8_BITS, NEW_16_BITS):
            text.append(codes.read(8 if code == NEW_8_BITS else 16))
            start.append(at)
            length.append(1)
            if previous[1]:
                room -= 1
                if room == 0:
                    width, room = width + 1, 1 << width
        elif previous[1] and code < len(start):
            text.extend(text[start[code] : start[code] + length[code]])
        elif previous[1] and code == len(start):
            # The phrase that this very step defines: the previous one and its own first character.
            text.extend(text[previous[0] : previous[0] + previous[1]])
            text.append(text[at])
        else:
            raise ShardError(
                f"the compressed text names phrase {code} of {len(start)}; the file is damaged or no .gior file"
            )
        if len(text) > limit:
            raise ShardError(f"the text is longer than {limit:,} characters; no .gior file of a game is")
        if previous[1]:
            start.append(previous[0])
            length.append(previous[1] + 1)
            room -= 1
            if room == 0:
                width, room = width + 1, 1 << width
        else:
            width, room = 3, 4
        previous = (at, len(text) - at)


def _joined(units: array[int]) -> str:
    try:
        return b"".join(unit.to_bytes(2, "little") for unit in units).decode("utf-16-le")
    except UnicodeDecodeError:
        raise ShardError("the decompressed text is no valid UTF-16; the file is damaged or no .gior file") from None
