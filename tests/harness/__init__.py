"""Real nodes as processes on loopback, for tests from end to end.

`Network` makes `NodeProcess`es and stops whatever it started; `eventually` waits without sleeping for a fixed time.
"""

from .curl import CurlAnswer, curl_upload
from .network import Network
from .node import Answer, ApiError, NodeProcess
from .waiting import eventually
from .workers import workers

__all__ = [
    "Answer",
    "ApiError",
    "CurlAnswer",
    "Network",
    "NodeProcess",
    "curl_upload",
    "eventually",
    "workers",
]
