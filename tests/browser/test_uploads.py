"""Uploads that are interrupted by people: an ended session, a closed window, a pause, a name that is taken."""

import base64
import hashlib
from pathlib import Path

from playwright.sync_api import Browser, Request, expect

from tests.builders import make_file
from tests.harness import eventually
from tests.harness.node import PASSWORD, NodeProcess

from .visitor import Visitor

MIB = 1024 * 1024
SLOW = 6_000_000.0


def begin(visitor: Visitor, node: NodeProcess, file: Path, at_least: int = 20) -> None:
    """Drag a file in, slowly, and wait until some of it is there."""
    visitor.sign_in(node)
    visitor.go("/ui/upload")
    visitor.slow_down(SLOW)
    visitor.drag(file)
    eventually(lambda: visitor.percent(file) >= at_least, 60, "the upload does not begin")


def test_it_goes_on_after_the_session_has_ended(visitor: Visitor, node: NodeProcess, tmp_path: Path) -> None:
    file = make_file(tmp_path / "Session.pkg", 48 * MIB, 2)
    begin(visitor, node, file.path)
    visitor.expected.append("401")
    node.api("DELETE", "/users/admin/sessions")
    dialog = visitor.page.get_by_role("dialog")
    expect(dialog).to_contain_text("Your session has ended")
    visitor.show("signed-out-while-uploading")
    dialog.get_by_label("Password").fill("not the password")
    dialog.get_by_role("button", name="Sign in").click()
    expect(dialog).to_contain_text("Name or password are wrong.")
    visitor.slow_down(0)
    dialog.get_by_label("Password").fill(PASSWORD)
    dialog.get_by_role("button", name="Sign in").click()
    expect(visitor.upload_row(file.path)).to_contain_text("Complete and checked")
    assert node.sha1(file.path.name) == file.sha1


def test_it_goes_on_in_another_window(browser: Browser, node: NodeProcess, tmp_path: Path) -> None:
    file = make_file(tmp_path / "Window.pkg", 48 * MIB, 3)
    first = Visitor(browser)
    begin(first, node, file.path, 40)
    first.page.close(run_before_unload=False)
    page = first.context.new_page()
    page.goto(f"{node.url}/ui/upload")
    unfinished = page.locator("#unfinished")
    expect(unfinished).to_contain_text("Window.pkg")
    (upload,) = node.api("GET", "/uploads")["items"]
    assert upload["offset"] > 0
    page.locator("#files").set_input_files(file.path)
    expect(page.locator(".upload")).to_contain_text("Complete and checked")
    assert node.sha1(file.path.name) == file.sha1
    assert node.package("Window.pkg")
    assert node.api("GET", "/uploads")["items"] == [], "it went on, and no second one was begun"
    first.close()


def test_an_unfinished_upload_is_deleted(visitor: Visitor, node: NodeProcess) -> None:
    name = base64.b64encode(b"Left.pkg").decode()
    headers = {"Tus-Resumable": "1.0.0", "Upload-Length": "10", "Upload-Metadata": f"filename {name}"}
    assert node.request("POST", "/api/v1/uploads", b"", headers).status == 201
    visitor.sign_in(node)
    visitor.go("/ui/upload")
    unfinished = visitor.page.locator("#unfinished")
    unfinished.get_by_role("button", name="Delete Left.pkg").click()
    visitor.page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(visitor.page.get_by_role("status")).to_contain_text("The upload is deleted.")
    expect(unfinished.filter(has_text="Left.pkg")).to_have_count(0)
    assert "Left.pkg" not in [upload["filename"] for upload in node.api("GET", "/uploads")["items"]]


def test_pausing(visitor: Visitor, node: NodeProcess, tmp_path: Path) -> None:
    file = make_file(tmp_path / "Paused.pkg", 32 * MIB, 4)
    begin(visitor, node, file.path)
    row = visitor.upload_row(file.path)
    row.get_by_role("button", name="Pause").click()
    expect(row).to_contain_text("What has arrived stays")
    visitor.slow_down(0)
    row.get_by_role("button", name="Resume").click()
    expect(row).to_contain_text("Complete and checked")
    assert node.sha1(file.path.name) == file.sha1


def test_ending_asks_once_and_deletes(visitor: Visitor, node: NodeProcess, tmp_path: Path) -> None:
    file = make_file(tmp_path / "Ended.pkg", 32 * MIB, 7)
    begin(visitor, node, file.path, 40)
    row = visitor.upload_row(file.path)
    row.get_by_role("button", name="Cancel", exact=True).click()
    expect(row).to_have_attribute("data-state", "sending")
    row.get_by_role("button", name="Cancel and delete").click()
    expect(row).to_have_attribute("data-state", "ended")
    eventually(lambda: node.api("GET", "/uploads")["items"] == [], 30, "it is still there")
    assert node.package("Ended.pkg") is None


def test_a_name_that_is_taken_is_refused_and_can_be_replaced(
    visitor: Visitor, node: NodeProcess, tmp_path: Path
) -> None:
    node.publish(make_file(tmp_path / "Taken.pkg", 1000, 5).path)
    other = make_file(tmp_path / "other" / "Taken.pkg", 2000, 6)
    visitor.sign_in(node)
    visitor.go("/ui/upload")
    visitor.expected.append("409")
    visitor.drag(other.path)
    row = visitor.upload_row(other.path)
    expect(row).to_contain_text("already exists")
    expect(row).to_contain_text("Turn on Replace to overwrite it.")
    visitor.page.get_by_label("Replace packages of the same name").check()
    row.get_by_role("button", name="Try again").click()
    expect(row).to_contain_text("Complete and checked")
    assert node.sha1("Taken.pkg") == other.sha1


def test_several_files_and_an_empty_one(visitor: Visitor, node: NodeProcess, tmp_path: Path) -> None:
    sizes = (1, 9 * MIB, 17 * MIB)
    files = [make_file(tmp_path / f"Several {size}.pkg", size, size) for size in sizes]
    empty = make_file(tmp_path / "Nothing.pkg", 0)
    visitor.sign_in(node)
    visitor.go("/ui/upload")
    visitor.drag(empty.path, *(file.path for file in files))
    expect(visitor.upload_row(empty.path)).to_contain_text("The file is empty.")
    for file in files:
        expect(visitor.upload_row(file.path)).to_contain_text("Complete and checked")
        assert node.sha1(file.path.name) == file.sha1
    visitor.upload_row(empty.path).get_by_role("button", name="Remove").click()
    expect(visitor.upload_row(empty.path)).to_have_count(0)
    assert node.package("Nothing.pkg") is None


def test_a_file_that_is_there_already_is_no_error(
    visitor: Visitor, node: NodeProcess, tmp_path: Path
) -> None:
    file = make_file(tmp_path / "Twice.pkg", 5000, 9)
    before = node.publish(file.path)
    visitor.sign_in(node)
    visitor.go("/ui/upload")
    visitor.drag(file.path)
    expect(visitor.upload_row(file.path)).to_contain_text("This exact file is already here.")
    after = node.package("Twice.pkg")
    assert after is not None
    assert after["revision"] == before["revision"]


def test_each_piece_has_its_checksum_without_tls_too(
    visitor: Visitor, node: NodeProcess, tmp_path: Path
) -> None:
    """Over plain HTTP browsers hide their own SHA-256."""
    visitor.page.add_init_script(
        "Object.defineProperty(Crypto.prototype, 'subtle', { get: () => undefined });"
    )
    file = make_file(tmp_path / "Plain.pkg", 9 * MIB + 63, 8)
    visitor.sign_in(node)
    visitor.go("/ui/upload")
    sent: list[str] = []

    def note(request: Request) -> None:
        if request.method == "PATCH":
            sent.append(request.headers["upload-checksum"])

    visitor.page.on("request", note)
    visitor.drag(file.path)
    expect(visitor.upload_row(file.path)).to_contain_text("Complete and checked")
    data = file.path.read_bytes()
    for text, piece in zip(sent, (data[: 8 * MIB], data[8 * MIB :]), strict=True):
        assert text == f"sha256 {base64.b64encode(hashlib.sha256(piece).digest()).decode()}"


def test_our_own_sha256(visitor: Visitor, node: NodeProcess) -> None:
    visitor.sign_in(node)
    script = "document.querySelector('script[type=module]').src.replace('app.js', 'sha256.js')"
    for size in (0, 1, 55, 56, 63, 64, 65, 119, 120, 1000, 65_537):
        found = visitor.page.evaluate(
            f"""async (size) => {{
              const {{ sha256Here }} = await import({script});
              const data = Uint8Array.from({{ length: size }}, (_, index) => (index * 7) % 251);
              return [...new Uint8Array(sha256Here(data.buffer))];
            }}""",
            size,
        )
        expected = hashlib.sha256(bytes(index * 7 % 251 for index in range(size))).digest()
        assert bytes(found) == expected, size


def test_what_was_replaced_meanwhile_is_not_withdrawn(
    visitor: Visitor, node: NodeProcess, tmp_path: Path
) -> None:
    """A dialog that was opened on another file; and a second click on what is withdrawn already."""
    node.publish(make_file(tmp_path / "Meanwhile.pkg", 1000, 10).path)
    visitor.sign_in(node)
    visitor.go("/ui/packages/Meanwhile.pkg")
    page = visitor.page
    page.get_by_role("button", name="Withdraw").click()
    page.get_by_label("Type").fill("Meanwhile.pkg")
    newer = make_file(tmp_path / "newer" / "Meanwhile.pkg", 1001, 11)
    node.publish(newer.path, replace="true")
    visitor.expected.append("412")
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("button", name="Withdraw").click()
    expect(dialog).to_contain_text("nothing was changed")
    assert node.sha1("Meanwhile.pkg") == newer.sha1
    visitor.go("/ui/packages/Meanwhile.pkg")
    page.get_by_role("button", name="Withdraw").click()
    page.get_by_label("Type").fill("Meanwhile.pkg")
    node.api("DELETE", "/packages/Meanwhile.pkg")
    visitor.expected.append("410")
    dialog.get_by_role("button", name="Withdraw").click()
    expect(dialog).to_contain_text('"Meanwhile.pkg" was withdrawn.')
