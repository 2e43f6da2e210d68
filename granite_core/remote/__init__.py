"""Files that other servers give: which addresses may be fetched, and how long and how large that may become."""

from granite_core.remote.files import RemoteFile, from_url
from granite_core.remote.rules import FetchRules, Resolver

__all__ = ["FetchRules", "RemoteFile", "Resolver", "from_url"]
