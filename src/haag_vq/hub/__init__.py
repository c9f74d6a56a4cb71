"""The Hugging Face Hub: repositories resolved, files read by ranges or staged."""

from haag_vq.hub.cached import hub_cache, is_whole
from haag_vq.hub.files import HubFile, Pin, Repository, is_offline
from haag_vq.hub.leading import leading
from haag_vq.hub.remote import RemoteFile
from haag_vq.hub.resolve import how_to_fetch, moved_since, parse_address, resolve, resolve_cached
from haag_vq.hub.stage import stage
from haag_vq.hub.staged import StagedFile, staged_file, stored_file

__all__ = [
    "HubFile",
    "Pin",
    "RemoteFile",
    "Repository",
    "StagedFile",
    "how_to_fetch",
    "hub_cache",
    "is_offline",
    "is_whole",
    "leading",
    "moved_since",
    "parse_address",
    "resolve",
    "resolve_cached",
    "stage",
    "staged_file",
    "stored_file",
]
