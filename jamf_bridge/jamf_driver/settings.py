"""What an admin sets to connect a Jamf Pro server."""

from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.config import JsonDict

_SECRET: JsonDict = {"secret": True}


class JamfSettings(BaseModel):
    """Where a Jamf Pro server is, and how to sign in: by an API client, or by a user account."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str = Field(description="URL of Jamf Pro, such as https://example.jamfcloud.com.")
    client_id: str = Field("", description="Id of an API client (Settings > API roles and clients).")
    client_secret: str = Field("", description="Its secret.", json_schema_extra=_SECRET, repr=False)
    username: str = Field("", description="A user account, where there is no API client.")
    password: str = Field("", description="Its password.", json_schema_extra=_SECRET, repr=False)
    ca_file: str = Field("", description="PEM file of authorities that are trusted beside the system's.")
    insecure: bool = Field(
        False, description="Allow plain HTTP, and downloads from any address: for tests alone."
    )
    cloud_hosts: tuple[str, ...] = Field(
        (),
        description="Hosts that packages may be downloaded from. Empty: any public host that Jamf Pro names.",
    )

    @model_validator(mode="after")
    def _complete(self) -> "JamfSettings":
        parts = urlsplit(self.url)
        if parts.scheme not in {"https", "http"} or not parts.hostname or parts.query or parts.fragment:
            raise ValueError("url: it is not a URL such as https://example.jamfcloud.com")
        if parts.scheme == "http" and not self.insecure:
            raise ValueError("url: secrets are sent there, so it must begin with https://")
        if bool(self.client_id) != bool(self.client_secret):
            raise ValueError("client_id and client_secret belong together: set both or none")
        if bool(self.username) != bool(self.password):
            raise ValueError("username and password belong together: set both or none")
        if bool(self.client_id) == bool(self.username):
            raise ValueError(
                "set client_id and client_secret, or username and password: one of the two pairs"
            )
        return self
