"""An async client for Jamf Pro in the style of python-jamf, on httpx. It needs nothing else of this product.

    async with Server("https://example.jamfcloud.com", client_id=..., client_secret=...) as jps:
        async for package in jps.Packages():
            print(package.id, package.name, package.data["fileName"])

docs/jamf-client.md has more examples.
"""

from .classic import ClassicDistributionPoints, NetworkSegments, WebHooks
from .cloud_files import CloudFile, CloudFiles, CloudInventory
from .credentials import ClientCredentials, CredentialsProvider, UserCredentials
from .download import SignedUrl
from .errors import (
    JamfAuthenticationError,
    JamfAuthorizationError,
    JamfBusy,
    JamfConflict,
    JamfError,
    JamfIncomplete,
    JamfInvalid,
    JamfNotFound,
    JamfNotJamf,
    JamfServerError,
    JamfSurprise,
    JamfTlsError,
    JamfUnreachable,
)
from .paths import InvalidPath
from .pro import Categories, DistributionPoints, Packages
from .records import Collection, Record
from .rsql import Expression, Field
from .server import Authorization, Server
from .session import Deprecation
from .version import JamfVersion

__all__ = [
    "Authorization", "Categories", "ClassicDistributionPoints", "ClientCredentials", "CloudFile", "CloudFiles",
    "CloudInventory", "Collection", "CredentialsProvider", "Deprecation", "DistributionPoints", "Expression", "Field",
    "InvalidPath", "JamfAuthenticationError", "JamfAuthorizationError", "JamfBusy", "JamfConflict", "JamfError",
    "JamfIncomplete", "JamfInvalid", "JamfNotFound", "JamfNotJamf", "JamfServerError", "JamfSurprise", "JamfTlsError",
    "JamfUnreachable", "JamfVersion", "NetworkSegments", "Packages", "Record", "Server", "SignedUrl",
    "UserCredentials", "WebHooks",
]  # fmt: skip
