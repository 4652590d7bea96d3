"""Threads (RFC 5256 §3): by references, and by subject alone."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

DEPTH_CHECKED_MAX: Final = 200
"""How far up a cycle is looked for before a message that has answers moves; above it stays where it is."""


class ThreadIds(msgspec.Struct, frozen=True, array_like=True):
    """What threads are made of: a message's own id and those of its ancestors, oldest first; without brackets."""

    message_id: bytes
    references: tuple[bytes, ...]
    reply: bool
    """The subject said so."""


@dataclass(frozen=True, slots=True)
class Threaded:
    """One message as `references` and `by_subject` take it."""

    uid: int
    sent_at: int
    subject: bytes
    ids: ThreadIds


@dataclass(slots=True)
class Thread:
    """A message with those that answer it; uid 0 for one that is missing, whose answers belong together."""

    uid: int
    answers: "list[Thread]" = field(default_factory=list)


def pack_ids(ids: ThreadIds) -> bytes:
    """Pack ids for the listing."""
    return _ENCODER.encode(ids)


def unpack_ids(octets: bytes) -> ThreadIds:
    """Read what `pack_ids` wrote."""
    return _DECODER.decode(octets)


def by_subject(messages: Iterable[Threaded]) -> list[Thread]:
    """Return ORDEREDSUBJECT threads: same base subject, the first message with all others as its answers."""
    groups: dict[bytes, list[Threaded]] = {}
    for message in sorted(messages, key=_when):
        groups.setdefault(message.subject, []).append(message)
    return [Thread(first.uid, [Thread(each.uid) for each in rest]) for first, *rest in groups.values()]


def by_references(messages: Sequence[Threaded]) -> list[Thread]:
    """Return REFERENCES threads. Time grows with the number of references, cycles are cut where they close."""
    forest = _Forest()
    for message in messages:
        forest.add(message)
    return forest.threads()


class _Node:
    __slots__ = ("children", "message", "parent", "when")

    def __init__(self) -> None:
        self.message: Threaded | None = None
        self.parent: _Node | None = None
        self.children: dict[_Node, None] = {}  # an ordered set: a node leaves it in constant time
        self.when: tuple[int, int] = (0, 0)

    def hang(self, parent: "_Node") -> None:
        """Move below another parent."""
        self.leave()
        self.parent = parent
        parent.children[self] = None

    def leave(self) -> None:
        """Become a root."""
        if self.parent is not None:
            del self.parent.children[self]
            self.parent = None

    def may_hang(self, parent: "_Node") -> bool:
        """Tell whether hanging below `parent` makes no cycle, as far as one can be looked for."""
        if not self.children:
            return self is not parent
        here: _Node | None = parent
        for _ in range(DEPTH_CHECKED_MAX):
            if here is None:
                return True
            if here is self:
                return False
            here = here.parent
        return False


class _Forest:
    def __init__(self) -> None:
        self._nodes: dict[bytes, _Node] = {}
        self._all: list[_Node] = []

    def add(self, message: Threaded) -> None:
        """Step 1: a node for the message, one for each reference, linked as they stand."""
        own = self._node(message.ids.message_id)
        if own.message is not None:  # the id is taken: this one gets a node of its own
            own = self._fresh()
        own.message = message
        above: _Node | None = None
        for reference in message.ids.references:
            node = self._node(reference)
            if above is not None and node.parent is None and node.may_hang(above):
                node.hang(above)
            above = node
        if above is None:
            own.leave()
        elif own.may_hang(above):
            own.hang(above)

    def threads(self) -> list[Thread]:
        """Steps 2 to 6: roots, empty ones out, oldest first, same subjects together."""
        tops = [node for node in self._all if node.parent is None]
        roots = [kept for node in tops for kept in _pruned(node)]
        for root in roots:
            _date(root)
        roots = _gathered(sorted(roots, key=lambda node: node.when))
        for root in roots:
            _date(root)
        return [_thread(root) for root in sorted(roots, key=lambda node: node.when)]

    def _node(self, message_id: bytes) -> _Node:
        if not message_id:
            return self._fresh()
        node = self._nodes.get(message_id)
        if node is None:
            node = self._nodes[message_id] = self._fresh()
        return node

    def _fresh(self) -> _Node:
        node = _Node()
        self._all.append(node)
        return node


def _postorder(root: _Node) -> list[_Node]:
    """Return all nodes below `root`, children before parents; threads may be deeper than Python's stack."""
    order, waiting = [], [root]
    while waiting:
        node = waiting.pop()
        order.append(node)
        waiting += node.children
    return order[::-1]


def _pruned(root: _Node) -> list[_Node]:
    """Step 3: an empty node gives its children to its parent; at the root only a single child is promoted."""
    for node in _postorder(root):
        for child in [each for each in node.children if each.message is None]:
            for each in tuple(child.children):
                each.hang(node)
            child.leave()
    if root.message is not None or len(root.children) > 1:
        return [root]
    only = list(root.children)
    for child in only:
        child.leave()
    return only


def _date(root: _Node) -> None:
    """Steps 4 and 6: children by time; a node's is its message's, an empty one's that of its first child."""
    for node in _postorder(root):
        node.children = dict.fromkeys(sorted(node.children, key=lambda child: child.when))
        node.when = _when(node.message) if node.message is not None else next(iter(node.children)).when


def _gathered(roots: list[_Node]) -> list[_Node]:
    """Step 5: put threads of the same base subject together."""
    table: dict[bytes, _Node] = {}
    for root in roots:
        subject = _speaker(root).subject
        known = table.get(subject)
        if subject and (known is None or _rather(root, known)):
            table[subject] = root
    kept: list[_Node] = []
    for root in roots:
        head = table.get(_speaker(root).subject, root)
        if head is root:
            kept.append(root)
        elif not _joined(root, head):
            both = _Node()
            for each in (head, root):
                each.hang(both)
            table[_speaker(root).subject] = both
            kept.append(both)
    return [node for node in kept if node.parent is None]


def _joined(root: _Node, head: _Node) -> bool:
    """Hang `root` under `head` where step 5.C says so; False where both want a common empty parent."""
    if head.message is None:
        for each in tuple(root.children) if root.message is None else (root,):
            each.hang(head)
        return True
    if root.message is None or (root.message.ids.reply and not head.message.ids.reply):
        root.hang(head)
        return True
    return False


def _rather(root: _Node, known: _Node) -> bool:
    """Step 5.B.iii: an empty root stands for the subject rather than a message, an original rather than a reply."""
    if known.message is None:
        return False
    return root.message is None or (known.message.ids.reply and not root.message.ids.reply)


def _speaker(root: _Node) -> Threaded:
    """Return the message whose subject is the thread's: the root's, or that of an empty root's first child."""
    node = root
    while node.message is None:
        node = next(iter(node.children))
    return node.message


def _thread(root: _Node) -> Thread:
    made: dict[int, Thread] = {}
    for node in _postorder(root):
        uid = node.message.uid if node.message is not None else 0
        made[id(node)] = Thread(uid, [made[id(child)] for child in node.children])
    return made[id(root)]


def _when(message: Threaded) -> tuple[int, int]:
    return message.sent_at, message.uid


_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(ThreadIds)
