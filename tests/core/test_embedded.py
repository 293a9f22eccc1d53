import os
from pathlib import Path

import pytest
import redis

from core import embedded
from core.ledger import Ledger
from core.settings import Settings


def test_keeps_the_queue_over_a_restart(tmp_path: Path) -> None:
    for round_ in range(2):
        process = embedded.start(tmp_path)
        with redis.Redis.from_url(embedded.url(tmp_path)) as client:
            assert client.lpush("queue", "x") == round_ + 1
            assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        process.terminate()
        assert process.wait(20) == 0


def test_listens_on_no_port(tmp_path: Path) -> None:
    process = embedded.start(tmp_path)
    with redis.Redis.from_url(embedded.url(tmp_path)) as client:
        assert client.config_get("port") == {"port": "0"}
    process.terminate()
    process.wait(20)


def test_replaces_one_left_behind(tmp_path: Path) -> None:
    left = embedded.start(tmp_path)
    fresh = embedded.start(tmp_path)
    assert left.wait(20) == 0
    assert fresh.poll() is None
    fresh.terminate()
    fresh.wait(20)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")
def test_refuses_a_socket_folder_of_somebody_else(tmp_path: Path) -> None:
    (tmp_path / "valkey").mkdir()
    os.chown(tmp_path / "valkey", 12345, -1)
    with pytest.raises(embedded.EmbeddedError, match="belongs to somebody else"):
        embedded.start(tmp_path)


def test_a_long_home_gets_a_short_socket(tmp_path: Path) -> None:
    home = tmp_path / ("deep" * 30)
    assert len(str(embedded.socket_path(home))) < 100
    assert embedded.socket_path(home) != embedded.socket_path(home / "x")
    process = embedded.start(home)
    process.terminate()
    process.wait(20)
    embedded.socket_path(home).parent.rmdir()


@pytest.mark.parametrize("name", ["a#b", "a?b", "a%41", "a b"])
def test_odd_homes(tmp_path: Path, name: str) -> None:
    home = tmp_path / name
    process = embedded.start(home)
    with redis.Redis.from_url(embedded.url(home)) as client:
        assert client.ping()
    process.terminate()
    process.wait(20)
    ledger = Ledger(Settings(home=home).database_url)
    ledger.migrate()
    ledger.close()
    assert (home / "ledger.sqlite").is_file()
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_failed_start_shows_the_log(tmp_path: Path) -> None:
    folder = tmp_path / "valkey" / "appendonlydir"
    folder.mkdir(parents=True)
    (folder / "appendonly.aof.manifest").write_text("broken\n")
    with pytest.raises(embedded.EmbeddedError, match="AOF"):
        embedded.start(tmp_path)
