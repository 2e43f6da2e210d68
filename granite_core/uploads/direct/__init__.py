"""Direct uploads: a client sends its bytes to the store, and the application takes them over.

A client never holds a request for a key that a row may name. What it is given is signed for a reserved key, and may be
sent again as long as it is good, with other bytes even. ``complete`` has the store copy what lies there to a fresh key,
then reads the copy: size, SHA-256 and type of the copy are what the file's ref says, and the policy's validators look
at the copy. From then on nothing that the client holds reaches it.

Where the store takes no requests of others, as a disk or memory does, they go to the application, with the same
answers: a client cannot tell, and need not.
"""

from granite_core.uploads.direct.aio import AsyncDirect, AsyncDirectWrite
from granite_core.uploads.direct.plan import DirectSettings, DirectWay
from granite_core.uploads.direct.told import DirectInstructions, DirectParts, DirectRequest
from granite_core.uploads.direct.verbs import Direct

__all__ = [
    "AsyncDirect",
    "AsyncDirectWrite",
    "Direct",
    "DirectInstructions",
    "DirectParts",
    "DirectRequest",
    "DirectSettings",
    "DirectWay",
]
