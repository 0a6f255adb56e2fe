"""From an event to an action."""

import pytest

from jamf_bridge.driver import Hook
from jamf_bridge.hooks.rules import action_of, wanted_events


def hook(event: str, kind: str = "") -> Hook:
    return Hook(event=event, id="1", subject_kind=kind)


@pytest.mark.parametrize("kind", ["package", "Packages", "PACKAGE", "Jamf Package"])
def test_a_call_about_packages(kind: str) -> None:
    assert action_of("jamf", {}, hook("RestAPIOperation", kind)) == "sync_package"


@pytest.mark.parametrize("kind", ["Distribution Point", "file share distribution points"])
def test_a_call_about_distribution_points(kind: str) -> None:
    assert action_of("jamf", {}, hook("RestAPIOperation", kind)) == "sync_all"


@pytest.mark.parametrize("kind", ["", "Policy", "Packaged Thing", "Patch Policy"])
def test_a_call_about_something_else(kind: str) -> None:
    assert action_of("jamf", {}, hook("RestAPIOperation", kind)) == "ignore"


@pytest.mark.parametrize(
    ("event", "action"),
    [
        ("JSSStartup", "probe"),
        ("jssstartup", "probe"),
        ("JSSShutdown", "pause"),
        ("PatchSoftwareTitleUpdated", "sync_all"),
        ("ComputerCheckIn", "ignore"),
        ("NeverHeardOf", "ignore"),
    ],
)
def test_the_defaults_for_jamf(event: str, action: str) -> None:
    assert action_of("jamf", {}, hook(event)) == action


def test_rules_come_before_the_defaults_in_any_case() -> None:
    assert action_of("jamf", {"JSSSTARTUP": "verify"}, hook("JSSStartup")) == "verify"
    assert (
        action_of("jamf", {"RestAPIOperation": "sync_all"}, hook("RestAPIOperation", "Policy")) == "sync_all"
    )


def test_other_kinds_sync_on_whatever_comes_unless_a_rule_says_otherwise() -> None:
    assert action_of("other", {}, hook("anything")) == "sync_all"
    assert action_of("other", {"Anything": "ignore"}, hook("anything")) == "ignore"


def test_webhooks_are_wanted_for_what_something_is_done_about() -> None:
    defaults = ("JSSShutdown", "JSSStartup", "PatchSoftwareTitleUpdated", "RestAPIOperation")
    assert wanted_events("jamf", {}) == defaults
    changed = wanted_events("jamf", {"restapioperation": "ignore", "ComputerCheckIn": "sync_all"})
    assert changed == ("ComputerCheckIn", "JSSShutdown", "JSSStartup", "PatchSoftwareTitleUpdated")
    assert wanted_events("other", {"x": "probe", "y": "ignore"}) == ("x",)
