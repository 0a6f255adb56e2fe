"""The manifest that tells a Mac what to install: a property list for the MDM command InstallEnterpriseApplication.

Its fields are those of https://support.apple.com/guide/deployment/dep873c25ac4/web. The hashes are of parts of equal
size; one part, the whole file, lets the SHA-256 serve that every package has. Devices want an HTTPS address.
"""

import plistlib

from appliance.domain.package import Package


def install_manifest(package: Package, url: str) -> bytes:
    """The manifest of one package as an XML property list.

    Args:
        package: What to install.
        url: Where devices download it.
    """
    body = package.body
    metadata = {"kind": "software", "title": body.filename}
    installer = body.metadata.get("installer")
    own = installer if isinstance(installer, dict) else {}
    for name, fact in (("bundle-identifier", "identifier"), ("bundle-version", "version")):
        value = body.metadata.get(name) or own.get(fact)
        if isinstance(value, str) and value:
            metadata[name] = value
    asset = {
        "kind": "software-package",
        "url": url,
        "sha256-size": body.size,
        "sha256s": [body.sha256],
    }
    return plistlib.dumps({"items": [{"assets": [asset], "metadata": metadata}]})
