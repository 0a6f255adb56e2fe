"""Every error has a code and a status."""

import pytest

from appliance.api.errors import STATUS, problem, retry_after, status_of
from appliance.domain import errors, mdm_errors, notify_errors


def every_error() -> list[type[errors.ApplianceError]]:
    found = [errors.ApplianceError]
    for cls in found:
        found.extend(cls.__subclasses__())
    trees = {errors.__name__, mdm_errors.__name__, notify_errors.__name__}
    return [cls for cls in dict.fromkeys(found) if cls.__module__ in trees]


def test_codes_are_unique() -> None:
    codes = [cls.code for cls in every_error()]
    assert len(codes) == len(set(codes))


@pytest.mark.parametrize("cls", every_error(), ids=lambda cls: cls.__name__)
def test_every_error_has_a_status_of_its_family(cls: type[errors.ApplianceError]) -> None:
    error = cls()
    assert 400 <= status_of(error) < 600
    assert error.message
    if cls is not errors.ApplianceError:
        assert status_of(error) != 500, "an error of ours is never an internal one"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.InvalidName(), 400),
        (errors.NotAuthenticated(), 401),
        (errors.RequestReplayed(), 401),
        (errors.PermissionDenied(), 403),
        (errors.PackageUnknown(), 404),
        (errors.PackageExists(), 409),
        (errors.PackageWithdrawn(), 410),
        (errors.TooLarge(), 413),
        (errors.DigestMismatch(), 422),
        (errors.TooManyAttempts(), 429),
        (errors.PackageArriving(), 503),
        (errors.StoreUnavailable(), 503),
        (errors.StorageFull(), 507),
    ],
)
def test_statuses(error: errors.ApplianceError, status: int) -> None:
    assert status_of(error) == status


def test_the_table_names_no_unknown_class() -> None:
    assert set(STATUS) <= set(every_error())


def test_retry_after() -> None:
    assert retry_after(errors.PackageArriving()) == 30
    assert retry_after(errors.TooManyAttempts("wait", retry_after=7)) == 7
    assert retry_after(errors.InvalidName()) is None


def test_details_do_not_hide_the_fields_of_a_problem() -> None:
    body = problem(409, code="conflict", detail="no", request_id="r", details={"status": 1, "sha256": "ab"})
    assert (body["status"], body["sha256"], body["title"]) == (409, "ab", "Conflict")
