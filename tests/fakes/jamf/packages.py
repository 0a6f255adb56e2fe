"""Package records and categories of the Pro API."""

import time
from typing import Any, ClassVar

from .base import ApiError, Handler, page_of
from .rsql import FilterInvalid, parse
from .state import PACKAGE_DEFAULTS, PACKAGE_REQUIRED, READ_ONLY, CloudFile, Content

_FILTERS = {
    "id",
    "fileName",
    "packageName",
    "categoryId",
    "info",
    "notes",
    "manifestFileName",
    "cloudTransferStatus",
}
_CRUD = {
    "GET": "Read Packages",
    "POST": "Create Packages",
    "PUT": "Update Packages",
    "DELETE": "Delete Packages",
}


def checked(handler: Handler, data: dict[str, Any], own: int | None) -> dict[str, Any]:
    """The fields of a body; what is absent falls back to its default: a write replaces the whole record."""
    for name in PACKAGE_REQUIRED:
        if name not in data or data[name] in (None, ""):
            raise ApiError(400, "REQUIRED", name, f"{name} is required")
    unknown = set(data) - set(PACKAGE_DEFAULTS) - {"id"}
    if unknown:
        raise ApiError(400, "INVALID_FIELD", sorted(unknown)[0])
    for id, record in handler.state.packages.items():
        if id != own and record["packageName"] == data["packageName"]:
            raise _exists(handler.state.faults.duplicate)
    if not isinstance(data["priority"], int) or not 1 <= data["priority"] <= 20:
        raise ApiError(400, "INVALID_FIELD", "priority")
    return {**PACKAGE_DEFAULTS, **{name: value for name, value in data.items() if name not in READ_ONLY}}


def _exists(word: str) -> ApiError:
    """How a name that exists is refused."""
    if word == "409":
        return ApiError(409)
    code = word if word.isupper() else "INVALID_FIELD"
    return ApiError(400, code, "packageName", "duplicate name" if word.isupper() else word)


class PackagesHandler(Handler):
    """`/api/v1/packages`."""

    privileges: ClassVar[dict[str, str]] = _CRUD

    def get(self) -> None:
        state = self.state
        where = self.get_argument("filter", "")
        items = state.listed(whole=not where)
        if where:
            try:
                test = parse(where, _FILTERS)
            except FilterInvalid as exc:
                raise ApiError(400, "INVALID_FILTER", "filter", str(exc)) from exc
            items = [item for item in items if test(item)]
        self.answer(page_of(self, items))
        if state.faults.insert_while_paging > 0 and self.get_argument("page", "0") != "0":
            state.faults.insert_while_paging -= 1
            state.admin_upload(f"Inserted{state.new_id()}.pkg", Content(data=b"x"), pending_s=0)

    def post(self) -> None:
        fields = checked(self, self.body_json(), None)
        id = self.state.new_id()
        self.state.packages[id] = fields
        file = self.state.cloud.get(fields["fileName"])
        if file is not None:
            fields["cloudTransferStatus"] = "PENDING"
        self.answer({"id": str(id), "href": f"/api/v1/packages/{id}"}, 201)
        self.told("POST", "Package", fields["packageName"], id)


class PackageHandler(Handler):
    """`/api/v1/packages/{id}`."""

    privileges: ClassVar[dict[str, str]] = _CRUD

    def _id(self, text: str) -> int:
        if int(text) not in self.state.packages:
            raise ApiError(404, "INVALID_ID", "id", "no such package")
        return int(text)

    def get(self, text: str) -> None:
        self.answer(self.state.shown(self._id(text)))

    def put(self, text: str) -> None:
        id = self._id(text)
        before = self.state.shown(id)
        after = checked(self, self.body_json(), id)
        after["cloudTransferStatus"] = before["cloudTransferStatus"]
        after["size"] = ""  # blank until the inventory is refreshed, whatever it was
        self.state.packages[id] = after
        self.answer(self.state.shown(id))
        self.told("PUT", "Package", after["packageName"], id)

    def delete(self, text: str) -> None:
        id = self._id(text)
        record = self.state.packages.pop(id)
        self.state.cloud.pop(record["fileName"], None)  # the file goes with its record
        self.set_status(204)
        self.told("DELETE", "Package", record["packageName"], id)


class HistoryHandler(Handler):
    """`/api/v1/packages/{id}/history`."""

    privileges: ClassVar[dict[str, str]] = {"GET": "Read Packages", "POST": "Update Packages"}

    def get(self, text: str) -> None:
        self.answer(page_of(self, list(self.state.history.get(int(text), []))))

    def post(self, text: str) -> None:
        self.state.note(int(text), self.body_json()["note"], self.account)
        self.answer({"id": "1", "href": ""}, 201)


class UploadHandler(Handler):
    """`POST /api/v1/packages/{id}/upload`: into the principal cloud distribution point, PENDING for a while."""

    privileges: ClassVar[dict[str, str]] = {"POST": "Update Packages"}

    def post(self, text: str) -> None:
        id = int(text)
        if id not in self.state.packages or self.state.cdn == "NONE":
            self.fail(404, "INVALID_ID")
            return
        parts = self.request.files.get("file")
        if not parts:
            raise ApiError(400, "REQUIRED", "file")
        ready = time.monotonic() + self.state.faults.pending_s
        self.state.cloud[self.state.packages[id]["fileName"]] = CloudFile(
            Content(data=parts[0]["body"]), ready
        )
        self.state.packages[id]["cloudTransferStatus"] = "PENDING"
        self.answer({"id": text, "href": f"/api/v1/packages/{text}"}, 201)
        self.told("POST", "Package", self.state.packages[id]["packageName"], id)


class CategoriesHandler(Handler):
    """`/api/v1/categories`."""

    privileges: ClassVar[dict[str, str]] = {"GET": "Read Categories", "POST": "Create Categories"}

    def get(self) -> None:
        items = list(self.state.categories.values())
        where = self.get_argument("filter", "")
        if where:
            test = parse(where, {"name", "priority"})
            items = [item for item in items if test(item)]
        self.answer(page_of(self, items))

    def post(self) -> None:
        data = self.body_json()
        id = self.state.new_id()
        self.state.categories[id] = {"id": str(id), "name": data["name"], "priority": data["priority"]}
        self.answer({"id": str(id), "href": ""}, 201)


class CategoryHandler(Handler):
    """`/api/v1/categories/{id}`."""

    privileges: ClassVar[dict[str, str]] = {"GET": "Read Categories"}

    def get(self, text: str) -> None:
        if int(text) not in self.state.categories:
            raise ApiError(404, "INVALID_ID")
        self.answer(self.state.categories[int(text)])


ROUTES = [
    (r"/api/v1/packages", PackagesHandler),
    (r"/api/v1/packages/(\d+)", PackageHandler),
    (r"/api/v1/packages/(\d+)/history", HistoryHandler),
    (r"/api/v1/packages/(\d+)/upload", UploadHandler),
    (r"/api/v1/categories", CategoriesHandler),
    (r"/api/v1/categories/(\d+)", CategoryHandler),
]
