import hashlib
import http.server
import importlib.util
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from petid_search.errors import ModelError
from petid_search.models import weights
from petid_search.models.weights import VGGFACE, WeightsFile, fetch, weights_folder

CONTENT = bytes(range(256)) * 12_000  # 3 MB, several reads
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Publisher(http.server.ThreadingHTTPServer):
    """A server of one file, which can be told to misbehave; it remembers the Range of each request."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.content = CONTENT
        self.ranges: list[str | None] = []
        self.bytes_served = 0
        self.knows_ranges = True
        self.tells_length = True
        self.cut_after: list[int] = []  # for the next answers, in order: how many bytes before it hangs up
        self.status = 200
        self.content_type = "application/octet-stream"
        self.range_start_error = 0
        self.seconds_per_piece = 0.0

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that hang up are part of these tests."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/w.h5"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Publisher

    def do_GET(self) -> None:
        server, asked = self.server, self.headers.get("Range")
        server.ranges.append(asked)
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and server.knows_ranges else 0
        total = len(server.content)
        if server.status != 200:
            self.send_error(server.status)
            return
        if start >= total:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{total}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        start -= server.range_start_error if start else 0
        body = server.content[start:]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        if server.tells_length:
            self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", server.content_type)
        self.end_headers()
        if server.cut_after:
            body = body[: server.cut_after.pop(0)]
        for at in range(0, len(body), 500_000):
            time.sleep(server.seconds_per_piece)
            server.bytes_served += self.wfile.write(body[at : at + 500_000])
        self.wfile.flush()
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def publisher(monkeypatch: pytest.MonkeyPatch) -> Iterator[Publisher]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Publisher() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def one_line(error: pytest.ExceptionInfo[ModelError]) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.startswith(".")}


def test_a_file_is_downloaded_whole_and_nothing_else_is_left(publisher, tmp_path):
    seen = []
    path = fetch(
        WeightsFile("w.h5", publisher.url, SHA256, len(CONTENT)),
        directory=tmp_path / "a" / "b",
        progress=lambda done, total: seen.append((done, total)),
    )
    assert path == tmp_path / "a" / "b" / "w.h5"
    assert path.read_bytes() == CONTENT
    assert names(path.parent) == {"w.h5"}
    assert seen[0] == (0, len(CONTENT))
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert len(seen) > 2
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_the_second_call_makes_no_request(publisher, tmp_path):
    for spec in (WeightsFile("w.h5", publisher.url, SHA256), WeightsFile("v.h5", publisher.url)):
        fetch(spec, directory=tmp_path)
        publisher.ranges.clear()
        assert fetch(spec, directory=tmp_path).read_bytes() == CONTENT
        assert publisher.ranges == []


def test_a_cut_connection_is_taken_up_where_it_ended(publisher, tmp_path):
    publisher.cut_after = [1_000_000, 500_000]
    path = fetch(WeightsFile("w.h5", publisher.url, SHA256), directory=tmp_path)
    assert path.read_bytes() == CONTENT
    assert publisher.ranges == [None, "bytes=1000000-", "bytes=1500000-"]
    assert publisher.bytes_served == len(CONTENT)


def test_a_cut_is_seen_by_the_known_size_where_the_server_tells_none(publisher, tmp_path):
    publisher.tells_length = False
    publisher.knows_ranges = False
    publisher.cut_after = [1_000_000, 1_000_000]
    seen = []
    spec = WeightsFile("w.h5", publisher.url, size=len(CONTENT))
    with pytest.raises(ModelError, match="the connection was cut"):
        fetch(spec, directory=tmp_path)
    path = fetch(spec, directory=tmp_path, progress=lambda _, total: seen.append(total))
    assert path.read_bytes() == CONTENT
    assert set(seen) == {len(CONTENT)}


def test_what_came_before_a_failure_is_kept_for_the_next_run(publisher, tmp_path):
    spec = WeightsFile("w.h5", publisher.url, SHA256)
    publisher.cut_after = [1_234_567, 0]
    with pytest.raises(ModelError) as error:
        fetch(spec, directory=tmp_path)
    assert "cut" in one_line(error)
    assert "1,234,567 bytes are kept" in one_line(error)
    assert not (tmp_path / "w.h5").exists()
    publisher.ranges.clear()
    seen = []
    assert fetch(spec, directory=tmp_path, progress=lambda done, _: seen.append(done)).read_bytes() == CONTENT
    assert publisher.ranges == ["bytes=1234567-"]
    assert seen[0] == 1_234_567


@pytest.mark.parametrize("tells_length", [True, False])
def test_a_server_without_ranges_starts_again_from_the_first_byte(publisher, tmp_path, tells_length):
    publisher.knows_ranges = False
    publisher.tells_length = tells_length
    (tmp_path / "w.h5.part").write_bytes(b"x" * 1_000_000)
    assert fetch(WeightsFile("w.h5", publisher.url, SHA256), directory=tmp_path).read_bytes() == CONTENT


def test_a_server_without_ranges_that_always_hangs_up_is_given_up_on(publisher, tmp_path):
    publisher.knows_ranges = False
    publisher.cut_after = [1_000_000] * 10
    with pytest.raises(ModelError, match="the connection was cut"):
        fetch(WeightsFile("w.h5", publisher.url, SHA256), directory=tmp_path)
    assert len(publisher.ranges) == 2


def test_a_part_that_is_already_whole_only_gets_its_name(publisher, tmp_path):
    (tmp_path / "w.h5.part").write_bytes(CONTENT)
    assert fetch(WeightsFile("w.h5", publisher.url, SHA256), directory=tmp_path).read_bytes() == CONTENT
    assert publisher.bytes_served == 0
    assert names(tmp_path) == {"w.h5"}


def test_a_part_that_is_too_long_is_thrown_away(publisher, tmp_path):
    (tmp_path / "w.h5.part").write_bytes(CONTENT + b"more")
    assert fetch(WeightsFile("w.h5", publisher.url, SHA256), directory=tmp_path).read_bytes() == CONTENT
    assert publisher.ranges == [f"bytes={len(CONTENT) + 4}-", None]


def test_an_answer_from_the_wrong_place_is_not_glued_on(publisher, tmp_path):
    publisher.range_start_error = 10
    part = tmp_path / "w.h5.part"
    part.write_bytes(CONTENT[:1000])
    with pytest.raises(ModelError, match="it answered from byte 990 where 1000 was asked for"):
        fetch(WeightsFile("w.h5", publisher.url, SHA256), directory=tmp_path)
    assert part.read_bytes() == CONTENT[:1000]


def test_a_wrong_checksum_is_refused_and_nothing_of_it_is_kept(publisher, tmp_path):
    publisher.content = CONTENT[:-1] + b"!"
    with pytest.raises(ModelError) as error:
        fetch(WeightsFile("w.h5", publisher.url, SHA256), directory=tmp_path)
    assert SHA256 in one_line(error)
    assert "--weights FILE" in one_line(error)
    assert names(tmp_path) == set()


def test_a_wrong_size_is_refused_though_the_checksum_is_unknown(publisher, tmp_path):
    with pytest.raises(ModelError, match=r"has 3,072,000 bytes where 3,072,001 are right"):
        fetch(WeightsFile("w.h5", publisher.url, size=len(CONTENT) + 1), directory=tmp_path)
    assert names(tmp_path) == set()


def test_an_unknown_checksum_is_recorded_on_first_use_and_held_to_ever_after(publisher, tmp_path):
    spec = WeightsFile("w.h5", publisher.url)
    path = fetch(spec, directory=tmp_path)
    record = tmp_path / "w.h5.sha256"
    assert record.read_text() == f"{SHA256}  w.h5\n"
    path.write_bytes(CONTENT[:-1] + b"!")
    with pytest.raises(ModelError, match="made when it was first used") as error:
        fetch(spec, directory=tmp_path)
    assert f"{path} has the sha256" in one_line(error)
    path.unlink()
    publisher.content = CONTENT + b"!"
    with pytest.raises(ModelError, match="it was not kept"):
        fetch(spec, directory=tmp_path)
    publisher.content = CONTENT
    assert fetch(spec, directory=tmp_path).read_bytes() == CONTENT


def test_a_file_put_there_by_hand_is_taken_without_a_request(publisher, tmp_path):
    (tmp_path / "w.h5").write_bytes(CONTENT)
    assert fetch(WeightsFile("w.h5", publisher.url), directory=tmp_path).read_bytes() == CONTENT
    assert {path.name for path in tmp_path.iterdir()} == {"w.h5", "w.h5.sha256"}
    assert publisher.ranges == []


def test_a_damaged_file_in_the_cache_is_named_not_used(publisher, tmp_path):
    (tmp_path / "w.h5").write_bytes(CONTENT[:-1] + b"!")
    with pytest.raises(ModelError) as error:
        fetch(WeightsFile("w.h5", publisher.url, SHA256), directory=tmp_path)
    assert one_line(error).startswith(f"{tmp_path / 'w.h5'} has the sha256")
    assert "delete it and run the command again" in one_line(error)


def test_a_missing_page_says_what_to_do_instead(publisher, tmp_path):
    publisher.status = 404
    with pytest.raises(ModelError) as error:
        fetch(WeightsFile("w.h5", publisher.url), directory=tmp_path)
    message = one_line(error)
    assert "HTTP 404" in message
    assert publisher.url in message
    assert str(tmp_path / "w.h5") in message
    assert "--weights FILE" in message


def test_a_web_page_is_not_taken_for_weights(publisher, tmp_path):
    publisher.content_type = "text/html; charset=utf-8"
    with pytest.raises(ModelError, match="web page"):
        fetch(WeightsFile("w.h5", publisher.url), directory=tmp_path)
    assert names(tmp_path) == set()


def test_without_network_the_message_names_url_place_and_option(tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Publisher() as closed:
        url = closed.url
    with pytest.raises(ModelError) as error:
        fetch(WeightsFile("w.h5", url), directory=tmp_path)
    message = one_line(error)
    assert "refused" in message
    assert url in message
    assert str(tmp_path / "w.h5") in message
    assert "--weights FILE" in message


def test_a_server_that_goes_silent_is_not_waited_for_forever(publisher, tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "_SECONDS_OF_SILENCE", 0.2)
    publisher.seconds_per_piece = 1
    with pytest.raises(ModelError, match=r"Could not download .*timed out"):
        fetch(WeightsFile("w.h5", publisher.url), directory=tmp_path)


def test_a_folder_that_cannot_be_made_is_told_from_a_dead_network(publisher, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match="PETID_HOME") as error:
        fetch(WeightsFile("w.h5", publisher.url), directory=tmp_path / "file" / "weights")
    one_line(error)
    assert publisher.ranges == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_told_from_a_dead_network(publisher, tmp_path):
    (tmp_path / "w.h5.part").symlink_to("/dev/full")
    with pytest.raises(ModelError, match="No space left") as error:
        fetch(WeightsFile("w.h5", publisher.url), directory=tmp_path)
    assert "make room" in one_line(error)


def test_processes_that_want_the_same_file_download_it_once(publisher, tmp_path):
    publisher.seconds_per_piece = 0.2
    script = (
        "import sys; from pathlib import Path; from petid_search.models.weights import WeightsFile, fetch\n"
        "print(fetch(WeightsFile('w.h5', sys.argv[1], sys.argv[2]), directory=Path(sys.argv[3])))"
    )
    command = [sys.executable, "-c", script, publisher.url, SHA256, str(tmp_path)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    for process in processes:
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 0
        assert output.strip() == str(tmp_path / "w.h5")
    assert (tmp_path / "w.h5").read_bytes() == CONTENT
    assert publisher.bytes_served == len(CONTENT)
    assert names(tmp_path) == {"w.h5"}


def test_a_killed_download_leaves_no_lock_behind(publisher, tmp_path):
    publisher.seconds_per_piece = 0.3
    script = (
        "import sys; from pathlib import Path; from petid_search.models.weights import WeightsFile, fetch\n"
        "fetch(WeightsFile('w.h5', sys.argv[1]), directory=Path(sys.argv[2]))"
    )
    process = subprocess.Popen([sys.executable, "-c", script, publisher.url, str(tmp_path)])
    part = tmp_path / "w.h5.part"
    while not (part.exists() and part.stat().st_size):
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    publisher.seconds_per_piece = 0.0
    publisher.ranges.clear()
    path = fetch(WeightsFile("w.h5", publisher.url, SHA256), directory=tmp_path)
    assert path.read_bytes() == CONTENT
    assert publisher.ranges[0] is not None


def test_weights_live_under_petid_home(publisher, tmp_path, monkeypatch):
    monkeypatch.setenv("PETID_HOME", str(tmp_path / "home"))
    assert fetch(WeightsFile("w.h5", publisher.url)) == tmp_path / "home" / "weights" / "w.h5"
    monkeypatch.setenv("PETID_HOME", "")
    assert weights_folder().is_absolute()
    assert weights_folder().name == "weights"
    monkeypatch.setenv("PETID_HOME", f"~{os.sep}pets")
    assert weights_folder() == Path.home() / "pets" / "weights"


def test_the_table_names_the_six_files_as_keras_vggface_does():
    package = importlib.util.find_spec("keras_vggface")
    assert package is not None
    assert package.origin is not None
    text = Path(package.origin).with_name("utils.py").read_text()
    published = {
        (network.lower(), not no_top): url
        for network, no_top, url in re.findall(r"(\w+)_WEIGHTS_PATH(_NO_TOP)? = '(\S+)'", text)
    }
    assert {key: spec.url for key, spec in VGGFACE.items()} == published
    assert all(spec.url.endswith(f"/{spec.name}") for spec in VGGFACE.values())
