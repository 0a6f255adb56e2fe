"""Which privilege a call needs, by Jamf Pro's names: to tell an admin what to add to the API role.

From the published schema (`x-required-privileges`), and for the cloud's files from jamf/JamfSync#72: renamed in 11.20.
"""

import re

_VERBS = {"GET": "Read", "POST": "Create", "PUT": "Update", "PATCH": "Update", "DELETE": "Delete"}
_AREAS = (
    (re.compile(r"/packages/[^/]+/(history|upload|manifest)"), "Update Packages"),
    (re.compile(r"/packages"), "{verb} Packages"),
    (re.compile(r"/jcds/refresh-inventory"), "Read Jamf Cloud Distribution Service Files"),
    (re.compile(r"/jcds/"), "{verb} Jamf Cloud Distribution Service Files"),
    (re.compile(r"/cloud-distribution-point/refresh-inventory"), "Read Cloud Distribution Point"),
    (re.compile(r"/cloud-distribution-point"), "{verb} Cloud Distribution Point"),
    (re.compile(r"/distribution-?points"), "{verb} Distribution Points"),
    (re.compile(r"/categories"), "{verb} Categories"),
    (re.compile(r"/webhooks"), "{verb} Webhooks"),
    (re.compile(r"/networksegments"), "{verb} Network Segments"),
)


def privilege_for(method: str, path: str) -> str:
    """The privilege that a call needs, "" if it is not known."""
    for pattern, name in _AREAS:
        if pattern.search(path):
            if method == "GET":
                return name.replace("Update", "Read").format(verb="Read")
            return name.format(verb=_VERBS.get(method, "Read"))
    return ""
