"""About this node: its settings, its versions."""

from collections.abc import Mapping
from itertools import groupby
from typing import ClassVar

from appliance.service.accounts import Role
from config.loading import described

from .pages import PageHandler


class SettingsPage(PageHandler):
    """`/ui/settings`."""

    title = "Settings"
    section = "/ui/settings"
    roles: ClassVar[Mapping[str, Role]] = {"GET": Role.ADMIN}

    def get(self) -> None:
        """The settings in force, secrets masked."""
        groups = groupby(described(self.app.settings), key=lambda setting: setting.key.rpartition(".")[0])
        self.page("settings.html", groups=[(name or "general", list(settings)) for name, settings in groups])


class AboutPage(PageHandler):
    """`/ui/about`."""

    title = "About"
    section = "/ui/about"

    async def get(self) -> None:
        """Versions and addresses."""
        self.page(
            "about.html",
            report=await self.app.system.report(),
            scrub=await self.app.scrub.status(),
            url=self.app.node_url,
            downloads=f"{self.app.download_url}/Packages/",
        )
