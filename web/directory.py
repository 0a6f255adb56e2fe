"""The directory: LDAP servers, what their groups give, and a test."""

from collections.abc import Mapping
from typing import ClassVar

from appliance.api.directory import directory_json
from appliance.api.models import NoQuery
from appliance.service.accounts import Role

from .pages import PageHandler


class DirectoryPage(PageHandler):
    """`/ui/directory`."""

    title = "Directory"
    section = "/ui/directory"
    roles: ClassVar[Mapping[str, Role]] = {"GET": Role.ADMIN}

    def get(self) -> None:
        """Its settings, how its servers do, and a form that tries them."""
        self.query_as(NoQuery)
        self.page("directory.html", directory=directory_json(self.app))
