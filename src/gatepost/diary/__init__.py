"""What happened to each mail, accepted or refused: the one place where it is written down.

It is personal data: who wrote to whom, when, from which address of the network. It holds no bodies, no subjects and
no passwords, and it forgets by days and by rows (`diary.verbs.sweep`).
"""

from gatepost.diary.story import Story, add

__all__ = ("Story", "add")
