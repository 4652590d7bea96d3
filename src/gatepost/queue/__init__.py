"""Mail on its way to elsewhere: durable, scheduled, reported on. The crash argument is in docs/queue.md."""

from gatepost.queue.submit import submit_steps

__all__ = ["submit_steps"]
