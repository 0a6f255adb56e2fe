"""The fake Jamf Pro answers a client that others wrote: it is not shaped after our own."""

import hashlib
from urllib.parse import urlsplit

import pytest
import requests
from jamf_pro_sdk import ApiClientCredentialsProvider, JamfProClient, SessionConfig
from jamf_pro_sdk.clients.pro_api.pagination import FilterField

from tests.fakes.jamf import FakeJamf


@pytest.mark.filterwarnings("ignore")
def test_the_published_client_lists_filters_and_downloads() -> None:
    with FakeJamf(packages=250) as jamf:
        made = jamf.upload("Über + 1.pkg", 3_000_017, seed=4)
        parts = urlsplit(jamf.url)
        client = JamfProClient(
            server=str(parts.hostname),
            port=parts.port or 80,
            credentials=ApiClientCredentialsProvider(jamf.client_id, jamf.client_secret),
            session_config=SessionConfig(scheme="http"),
        )
        packages = client.pro_api.get_packages_v1(page_size=100)
        assert len(packages) == len({package.id for package in packages}) == 251
        found = client.pro_api.get_packages_v1(
            filter_expression=FilterField("fileName").eq("Filler-00007.pkg")
        )
        assert [package.fileName for package in found] == ["Filler-00007.pkg"]
        (file,) = client.pro_api.get_jcds_files_v1()
        assert (file.fileName, file.length, file.sha3) == ("Über + 1.pkg", 3_000_017, made["sha3"])
        url = client.pro_api.get_jcds_file_v1(file_name="Über + 1.pkg").uri
        assert url is not None
        assert int(requests.head(url, timeout=10).headers["Content-Length"]) == 3_000_017
        data = b""
        for first in range(0, 3_000_017, 1_000_000):
            wanted = {"Range": f"bytes={first}-{first + 999_999}"}
            answer = requests.get(url, headers=wanted, timeout=10)
            assert answer.status_code == 206
            data += answer.content
        assert hashlib.sha3_512(data).hexdigest() == made["sha3"]
