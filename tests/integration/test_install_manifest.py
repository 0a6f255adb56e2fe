"""The manifest for InstallEnterpriseApplication, read as a device would."""

import hashlib
import plistlib
import urllib.request
from pathlib import Path

from tests.builders import make_file
from tests.harness import NodeProcess
from tests.installers import Installers


def test_it_leads_to_the_bytes_that_it_promises(one_node: NodeProcess, tmp_path: Path) -> None:
    file = make_file(tmp_path / "Install me & more.pkg", 3_000_001, 4)
    package = one_node.publish(file.path)
    one_node.api("PATCH", f"/packages/{package['id']}", {"metadata": {"bundle-version": "1.2", "other": "x"}})
    answer = one_node.request("GET", f"/api/v1/packages/{package['id']}/install-manifest")
    assert (answer.status, answer.headers["content-type"]) == (200, "application/xml")
    (item,) = plistlib.loads(answer.body)["items"]
    (asset,) = item["assets"]
    assert asset["kind"] == "software-package"
    with urllib.request.urlopen(asset["url"], timeout=30) as got:
        data = got.read()
    size = asset["sha256-size"]
    parts = [data[start : start + size] for start in range(0, len(data), size)]
    assert [hashlib.sha256(part).hexdigest() for part in parts] == asset["sha256s"]
    assert item["metadata"] == {"kind": "software", "title": file.path.name, "bundle-version": "1.2"}


def test_a_flat_package_names_what_it_installs(
    one_node: NodeProcess, installers: Installers, tmp_path: Path
) -> None:
    def manifest(id: str) -> dict[str, str]:
        answer = one_node.request("GET", f"/api/v1/packages/{id}/install-manifest")
        (item,) = plistlib.loads(answer.body)["items"]
        return item["metadata"]  # type: ignore[no-any-return]

    first, second = (installers.get("Tool", version) for version in ("1.0", "2.0"))
    package = one_node.publish(first.path, "Tool.pkg")
    assert package["metadata"] == {"installer": {"identifier": "org.example.tool", "version": "1.0"}}
    named = {"kind": "software", "title": "Tool.pkg", "bundle-identifier": "org.example.tool"}
    assert manifest(package["id"]) == {**named, "bundle-version": "1.0"}
    other = {**package["metadata"], "owner": "me", "bundle-version": "1.0.7"}
    one_node.api("PATCH", f"/packages/{package['id']}", {"metadata": other})
    package = one_node.publish(second.path, "Tool.pkg", replace="true")
    assert package["metadata"]["installer"]["version"] == "2.0"
    assert (package["metadata"]["owner"], manifest(package["id"])["bundle-version"]) == ("me", "1.0.7")
    package = one_node.publish(make_file(tmp_path / "Tool.pkg", 1000).path, replace="true")
    assert package["metadata"] == {"owner": "me", "bundle-version": "1.0.7"}


def test_a_package_that_is_not_there(one_node: NodeProcess, tmp_path: Path) -> None:
    assert one_node.request("GET", "/api/v1/packages/None.pkg/install-manifest").status == 404
    package = one_node.publish(make_file(tmp_path / "Gone.pkg", 10, 5).path)
    one_node.api("DELETE", f"/packages/{package['id']}")
    assert one_node.request("GET", f"/api/v1/packages/{package['id']}/install-manifest").status == 410
