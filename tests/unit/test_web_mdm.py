"""The page of MDM servers, whatever drivers are installed."""

import re

from appliance.service.accounts import Principal, Role
from web.schema_fields import form_fields
from web.templating import render


def test_each_kind_has_a_dialog_of_its_own() -> None:
    schema = {"properties": {"url": {"type": "string"}, "token": {"type": "string", "secret": True}}}
    kinds = [
        {"kind": kind, "name": kind.title(), "fields": form_fields(schema, "settings", {})}
        for kind in ("jamf", "other")
    ]
    page = render(
        "mdm.html",
        {
            "kinds": kinds, "items": [], "title": "", "section": "", "sections": [], "can_admin": True, "mark": "",
            "xsrf": "", "node": {"name": "a"}, "secure": True,
            "me": Principal(name="admin", role=Role.ADMIN, via="password"),
        },
    )  # fmt: skip
    ids = re.findall(r'\sid="([^"]+)"', page)
    assert len(ids) == len(set(ids)), "every id once"
    for label in re.findall(r'<label for="([^"]+)"', page):
        assert label in ids
    for kind in ("jamf", "other"):
        assert f'data-opens="add-{kind}">Connect {kind.title()}</button>' in page
        assert f'id="add-{kind}"' in page
