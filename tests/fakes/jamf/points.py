"""File share distribution points: the Pro API from 11.16 on, the Classic API before."""

from typing import Any, ClassVar

from .base import ApiError, Handler, page_of
from .rsql import parse

DEFAULTS: dict[str, Any] = {
    "name": "", "serverName": "", "principal": False, "backupDistributionPointId": "-1", "sshUsername": "",
    "localPathToShare": "", "fileSharingConnectionType": "NONE", "shareName": "", "workgroup": "", "port": 139,
    "readWriteUsername": "", "readOnlyUsername": "", "httpsEnabled": False, "httpsPort": 443, "httpsContext": "",
    "httpsSecurityType": "NONE", "httpsUsername": "", "enableLoadBalancing": False,
}  # fmt: skip
_SECRETS = {"sshPassword", "readWritePassword", "readOnlyPassword", "httpsPassword"}
_CRUD = {
    "GET": "Read Distribution Points", "POST": "Create Distribution Points", "PUT": "Update Distribution Points",
    "PATCH": "Update Distribution Points", "DELETE": "Delete Distribution Points",
}  # fmt: skip


class PointHandler(Handler):
    """What both paths need."""

    privileges: ClassVar[dict[str, str]] = _CRUD

    async def prepare(self) -> None:
        await super().prepare()
        if not self._finished and self.state.version < (11, 16):
            self.fail(404)

    def keep(self, id: int, data: dict[str, Any], base: dict[str, Any]) -> None:
        """Write a record, if it keeps the rules."""
        unknown = set(data) - set(DEFAULTS) - _SECRETS - {"id"}
        if unknown:
            raise ApiError(400, "INVALID_FIELD", sorted(unknown)[0])
        record = {**base, **{name: value for name, value in data.items() if name != "id"}}
        for name in ("name", "serverName", "fileSharingConnectionType"):
            if not record.get(name):
                raise ApiError(400, "REQUIRED", name)
        if record["fileSharingConnectionType"] == "NONE" and not record["httpsEnabled"]:
            raise ApiError(400, "INVALID_FIELD", "httpsEnabled", "a file share or https is needed")
        if any(other["name"] == record["name"] for key, other in self.state.points.items() if key != id):
            raise ApiError(400, "DUPLICATE_FIELD", "name")
        backup = record["backupDistributionPointId"]
        if backup == "-2" and self.state.cdn == "NONE":
            raise ApiError(400, "INVALID_FIELD", "backupDistributionPointId")
        if record["principal"]:  # there is only one: the old one silently ceases to be it
            for other in self.state.points.values():
                other["principal"] = False
        self.state.points[id] = record


def shown(id: int, record: dict[str, Any]) -> dict[str, Any]:
    """A record without its passwords."""
    return {"id": str(id), **{name: value for name, value in record.items() if name not in _SECRETS}}


class PointsHandler(PointHandler):
    """`/api/v1/distribution-points`."""

    def get(self) -> None:
        items = [shown(id, record) for id, record in self.state.points.items()]
        where = self.get_argument("filter", "")
        if where:
            test = parse(
                where, {"name", "serverName", "principal", "fileSharingConnectionType", "httpsEnabled"}
            )
            items = [item for item in items if test(item)]
        self.answer(page_of(self, items))

    def post(self) -> None:
        id = self.state.new_id()
        self.keep(id, self.body_json(), DEFAULTS)
        self.answer({"id": str(id), "href": f"/api/v1/distribution-points/{id}"}, 201)
        self.told("POST", "Distribution Point", self.state.points[id]["name"], id)


class OnePointHandler(PointHandler):
    """`/api/v1/distribution-points/{id}`."""

    def _id(self, text: str) -> int:
        if int(text) not in self.state.points:
            raise ApiError(404, "INVALID_ID")
        return int(text)

    def get(self, text: str) -> None:
        id = self._id(text)
        self.answer(shown(id, self.state.points[id]))

    def put(self, text: str) -> None:
        self._write(self._id(text), DEFAULTS)

    def patch(self, text: str) -> None:
        self._write(self._id(text), self.state.points[self._id(text)])

    def _write(self, id: int, base: dict[str, Any]) -> None:
        self.keep(id, self.body_json(), base)
        self.answer(shown(id, self.state.points[id]), 202)
        self.told("PUT", "Distribution Point", self.state.points[id]["name"], id)

    def delete(self, text: str) -> None:
        id = self._id(text)
        record = self.state.points.pop(id)
        for other in self.state.points.values():
            if other["backupDistributionPointId"] == text:
                other["backupDistributionPointId"] = "-1"
        self.set_status(204)
        self.told("DELETE", "Distribution Point", record["name"], id)


ROUTES = [
    (r"/api/v1/distribution-points", PointsHandler),
    (r"/api/v1/distribution-points/(\d+)", OnePointHandler),
]
