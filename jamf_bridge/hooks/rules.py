"""What is done about a webhook: the driver's defaults, and the admin's rules before them.

Webhooks are hints. Every action but `pause` and `ignore` ends in a sync, and the sync asks the MDM what is true.
"""

import re
from collections.abc import Mapping

from ..driver import Hook
from ..servers.config import Action

_PACKAGE = re.compile(r"\bpackages?\b")
_POINT = re.compile(r"\bdistribution points?\b")

#: Jamf Pro's events that say something about packages or the server; all its others are ignored.
_JAMF: Mapping[str, Action] = {
    "restapioperation": "sync_package",
    "jssstartup": "probe",  # it was restarted, perhaps upgraded
    "jssshutdown": "pause",
    "patchsoftwaretitleupdated": "sync_all",  # AutoPkg and admins upload soon after
}
_JAMF_NAMES = ("RestAPIOperation", "JSSStartup", "JSSShutdown", "PatchSoftwareTitleUpdated")


def action_of(kind: str, rules: Mapping[str, Action], hook: Hook) -> Action:
    """What to do about a delivery.

    Args:
        kind: The server's kind.
        rules: The admin's, by event in any case; they come before the defaults.
        hook: The delivery as the driver understood it.
    """
    event = hook.event.casefold()
    for name, action in rules.items():
        if name.casefold() == event:
            return action
    if kind != "jamf":
        return "sync_all"
    if event == "restapioperation":
        return _of_operation(hook)
    return _JAMF.get(event, "ignore")


def _of_operation(hook: Hook) -> Action:
    """Jamf Pro reports every call of its API: few are about what is mirrored.

    The word for a package is not documented, so a word among others counts too.
    """
    subject = hook.subject_kind.casefold()
    if _PACKAGE.search(subject):
        return "sync_package"
    return "sync_all" if _POINT.search(subject) else "ignore"


def wanted_events(kind: str, rules: Mapping[str, Action]) -> tuple[str, ...]:
    """The events that webhooks are registered for: those that something is done about."""
    named = {name.casefold(): name for name in _JAMF_NAMES} if kind == "jamf" else {}
    actions: dict[str, Action] = dict.fromkeys(named, "sync_all")
    for name, action in rules.items():
        named.setdefault(name.casefold(), name)
        actions[name.casefold()] = action
    return tuple(sorted(named[key] for key, action in actions.items() if action != "ignore"))
