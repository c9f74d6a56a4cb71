"""The Hugging Face Hub: repositories resolved, files read by ranges or staged."""

from haag_vq.hub.files import HubFile, Repository, is_offline
from haag_vq.hub.remote import RemoteFile
from haag_vq.hub.resolve import parse_address, resolve
from haag_vq.hub.stage import hub_cache, stage

__all__ = [
    "HubFile",
    "RemoteFile",
    "Repository",
    "hub_cache",
    "is_offline",
    "parse_address",
    "resolve",
    "stage",
]
