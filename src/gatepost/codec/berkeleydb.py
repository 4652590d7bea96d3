"""Read the files that makemap and newaliases write: Berkeley DB, the access methods Hash and Btree, version 5.

Format: db-5.3 src/dbinc/db_page.h. A file is pages of one size. The first tells that size; leaf pages hold items,
by turns a key and its value; an item too large for a page is a chain of overflow pages. Read are all leaf pages in
their order in the file: whoever wants every pair needs neither buckets nor the tree.

    meta page   12 magic  16 version  20 page size  24 encryption
    any page    12 previous  16 next  20 items  22 octets of an overflow page  25 type  26 offsets of the items
"""

from collections.abc import Iterator
from struct import Struct, error
from typing import Final

HASH_MAGIC: Final = 0x061561
BTREE_MAGIC: Final = 0x053162
PAGE_HEADER: Final = 26
PAGE_SIZES: Final = range(512, 65_536 + 1)
_HASH_PAGES: Final = (2, 13)  # P_HASH_UNSORTED, P_HASH
_BTREE_LEAF: Final = 5  # P_LBTREE
_OVERFLOW: Final = 7  # P_OVERFLOW
_OTHER_PAGES: Final = (0, 3, _OVERFLOW, 8, 9)  # unused, inner, overflow, and the two kinds of meta page
_IN_PAGE: Final = 1  # H_KEYDATA, B_KEYDATA
_OFF_PAGE: Final = 3  # H_OFFPAGE, B_OVERFLOW
_DELETED: Final = 0x80  # B_DELETE


class BadDatabase(ValueError):
    """No file of that kind, or a damaged one."""


def pairs(octets: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield every key with its value, in no order that means anything; raises BadDatabase."""
    try:
        yield from _File(octets).pairs()
    except (error, IndexError) as wrong:
        raise BadDatabase("the file is damaged or not whole") from wrong


class _File:
    """The pages of a file."""

    def __init__(self, octets: bytes) -> None:
        self._octets = octets
        for order in "<>":
            self._two, self._four = Struct(f"{order}H"), Struct(f"{order}I")
            self._magic = self._number(12)
            if self._magic in (HASH_MAGIC, BTREE_MAGIC):
                break
        else:
            raise BadDatabase("this is no Berkeley DB file")
        self._size = self._number(20)
        if octets[24]:
            raise BadDatabase("the file is encrypted")
        if self._size not in PAGE_SIZES or self._size & (self._size - 1) or len(octets) % self._size:
            raise BadDatabase("the file is damaged or not whole")

    def pairs(self) -> Iterator[tuple[bytes, bytes]]:
        for page in range(self._size, len(self._octets), self._size):
            kind = self._octets[page + 25]
            if kind in _HASH_PAGES and self._magic == HASH_MAGIC:
                items = list(self._hash_items(page))
            elif kind == _BTREE_LEAF and self._magic == BTREE_MAGIC:
                items = list(self._btree_items(page))
            elif kind in _OTHER_PAGES:
                continue
            else:
                raise BadDatabase("the file is damaged or not whole")
            if len(items) % 2:
                raise BadDatabase("the file is damaged or not whole")
            for key, value in zip(items[::2], items[1::2], strict=True):
                if key is not None and value is not None:
                    yield key, value

    def _hash_items(self, page: int) -> Iterator[bytes | None]:
        """Yield the items of a page; each ends where the one before it begins."""
        end = page + self._size
        for at in self._offsets(page):
            start = page + at
            kind = self._octets[start]
            if start >= end or kind not in (_IN_PAGE, _OFF_PAGE):
                raise BadDatabase("the file has duplicate keys, which no such table has")
            if kind == _IN_PAGE:
                yield self._octets[start + 1 : end]
            else:
                yield self._chain(self._number(start + 4), self._number(start + 8))
            end = start

    def _btree_items(self, page: int) -> Iterator[bytes | None]:
        for at in self._offsets(page):
            start = page + at
            length, kind = self._short(start), self._octets[start + 2]
            if kind & _DELETED:
                yield None
            elif kind == _IN_PAGE:
                yield self._within(start + 3, length, page + self._size)
            elif kind == _OFF_PAGE:
                yield self._chain(self._number(start + 4), self._number(start + 8))
            else:
                raise BadDatabase("the file has duplicate keys, which no such table has")

    def _offsets(self, page: int) -> list[int]:
        count = self._short(page + 20)
        if PAGE_HEADER + 2 * count > self._size:
            raise BadDatabase("the file is damaged or not whole")
        found = [self._short(page + PAGE_HEADER + 2 * each) for each in range(count)]
        if any(not PAGE_HEADER <= each < self._size for each in found):
            raise BadDatabase("the file is damaged or not whole")
        return found

    def _chain(self, number: int, length: int) -> bytes:
        """Return an item of `length` octets that begins on page `number`."""
        parts: list[bytes] = []
        for _ in range(length // (self._size - PAGE_HEADER) + 1):
            page = number * self._size
            if not number or self._octets[page + 25] != _OVERFLOW:
                raise BadDatabase("the file is damaged or not whole")
            parts.append(self._within(page + PAGE_HEADER, self._short(page + 22), page + self._size))
            number = self._number(page + 16)
            if not number:
                break
        found = b"".join(parts)
        if len(found) != length:
            raise BadDatabase("the file is damaged or not whole")
        return found

    def _within(self, start: int, length: int, end: int) -> bytes:
        if start + length > end:
            raise BadDatabase("the file is damaged or not whole")
        return self._octets[start : start + length]

    def _short(self, at: int) -> int:
        value: int = self._two.unpack_from(self._octets, at)[0]
        return value

    def _number(self, at: int) -> int:
        value: int = self._four.unpack_from(self._octets, at)[0]
        return value
