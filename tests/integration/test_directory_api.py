"""The directory in the admin API of a node that has none, and stage limits of local accounts."""

from base64 import b64encode

from tests.harness import NodeProcess
from tests.harness.node import PASSWORD, Answer


def asks(node: NodeProcess, who: str, method: str, path: str, body: bytes | None = None) -> Answer:
    basic = b64encode(f"{who}:{PASSWORD}".encode()).decode()
    return node.request(method, f"/api/v1{path}", body, {"Authorization": f"Basic {basic}"}, anonymous=True)


def test_without_a_directory(one_node: NodeProcess) -> None:
    found = one_node.api("GET", "/directory")
    assert (found["configured"], found["servers"], found["groups"]) == (False, [], [])
    answer = one_node.request("POST", "/api/v1/directory/test", b"{}")
    assert (answer.status, "directory.servers" in answer.json()["detail"]) == (409, True)


def test_an_operator_of_one_stage(one_node: NodeProcess) -> None:
    made = one_node.api(
        "POST", "/users", {"name": "limited", "password": PASSWORD, "role": "operator", "stages": ["test"]}
    )
    assert made["stages"] == ["test"]
    assert asks(one_node, "limited", "PUT", "/packages/Limited.pkg", b"x").status == 201
    assert one_node.api("GET", "/packages/Limited.pkg")["stage"] == "test"
    tus = {
        "Tus-Resumable": "1.0.0", "Upload-Length": "1",
        "Upload-Metadata": "filename TC5wa2c=,stage cHJvZA==",
        "Authorization": "Basic " + b64encode(f"limited:{PASSWORD}".encode()).decode(),
    }  # fmt: skip
    refused = one_node.request("POST", "/api/v1/uploads", b"", tus, anonymous=True)
    assert (refused.status, "prod" in refused.json()["detail"]) == (403, True)
    assert asks(one_node, "limited", "PATCH", "/packages/Limited.pkg", b'{"stage": "prod"}').status == 403

    changed = one_node.api("PATCH", "/users/limited", {"stages": ["test", "prod"]})
    assert changed["stages"] == ["test", "prod"]
    assert asks(one_node, "limited", "PATCH", "/packages/Limited.pkg", b'{"stage": "prod"}').status == 200
    assert one_node.api("PATCH", "/users/limited", {"role": "viewer"})["stages"] == []
    wrong = one_node.request("PATCH", "/api/v1/users/limited", b'{"stages": ["test"]}')
    assert (wrong.status, "Only an operator" in wrong.json()["detail"]) == (400, True)
    assert (
        one_node.request("PATCH", "/api/v1/users/limited", b'{"role": "operator", "stages": ["no"]}').status
        == 400
    )


def test_nobody_lifts_their_own_limit(one_node: NodeProcess) -> None:
    one_node.api(
        "POST", "/users", {"name": "lifter", "password": PASSWORD, "role": "operator", "stages": ["test"]}
    )
    assert asks(one_node, "lifter", "PATCH", "/users/lifter", b'{"stages": []}').status == 403
    token = asks(one_node, "lifter", "POST", "/tokens", b'{"name": "x"}').json()
    assert token["stages"] == ["test"]
