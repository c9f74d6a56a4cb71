"""Workers to run on."""

from haag_vq.cluster.connect import Connection, connect

__all__ = ["Connection", "connect"]
