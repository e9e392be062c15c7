"""Who uses what of a shared models folder, and what is removed: by ages that the tests set, then by real servers."""

import errno
import json
import os
import socket
import threading

import pytest
from llamaserver import files
from llamaserver.models import cache
from llamaserver.models.cache import Claim, escaped

from tests.support.polling import until
from tests.support.server.process import ServerProcess

HOST = socket.gethostname()


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "models"


def downloaded(folder, owner, *keys):
    """What `fetch` leaves."""
    claim = Claim(folder, owner, keys)
    claim.name()
    for key in keys:
        (folder / key / "model.gguf").write_text("weights")
    return claim


def age(seconds, *paths):
    """Make files look so much older."""
    for path in paths:
        then = path.stat().st_mtime - seconds
        os.utime(path, (then, then))


def marker(folder, key, owner):
    return folder / key / ".owners" / escaped(owner)


def user(folder, owner, host=HOST):
    return folder / ".users" / f"{escaped(owner)}.{host}"


def keys(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith(".users"))


def test_a_folder_is_removed_when_its_only_owner_drops_it(folder):
    downloaded(folder, "ns/a", "old", "new")
    age(601, marker(folder, "old", "ns/a"), marker(folder, "new", "ns/a"))
    assert Claim(folder, "ns/a", ("new",)).prune() == ["old"]
    assert keys(folder) == ["new"]
    assert (folder / "new/model.gguf").exists()


def test_nothing_goes_before_its_time(folder):
    downloaded(folder, "ns/a", "old", "new")
    age(590, marker(folder, "old", "ns/a"))
    assert Claim(folder, "ns/a", ("new",)).prune() == []
    assert keys(folder) == ["new", "old"]


def test_a_folder_in_use_by_another_pod_of_the_owner_stays(folder):
    downloaded(folder, "ns/a", "old", "new")
    age(10_000, marker(folder, "old", "ns/a"))
    mine = Claim(folder, "ns/a", ("new",))
    mine.use()
    user(folder, "ns/a", "pod-2").write_text(json.dumps(["old"]))
    assert mine.prune() == []
    assert marker(folder, "old", "ns/a").exists()
    age(601, user(folder, "ns/a", "pod-2"))
    assert mine.prune() == ["old"]
    assert not user(folder, "ns/a", "pod-2").exists()


def test_a_folder_of_another_owner_stays(folder):
    downloaded(folder, "ns/a", "shared", "new")
    downloaded(folder, "ns/b", "shared")
    age(10_000, marker(folder, "shared", "ns/a"), marker(folder, "shared", "ns/b"))
    assert Claim(folder, "ns/a", ("new",)).prune() == []
    assert not marker(folder, "shared", "ns/a").exists()
    assert (folder / "shared/model.gguf").exists()
    assert Claim(folder, "ns/b", ()).prune() == ["shared"]


def test_owners_whose_names_begin_alike_are_not_confused(folder):
    downloaded(folder, "ns/a", "old")
    age(10_000, marker(folder, "old", "ns/a"))
    mine = Claim(folder, "ns/a", ())
    mine.use()
    (folder / ".users" / f"{escaped('ns/a.b')}.pod").write_text(json.dumps(["old"]))
    assert mine.prune() == ["old"]


def test_folders_without_owners_are_nobodys_to_remove(folder):
    (folder / "mine").mkdir(parents=True)
    (folder / "mine/model.gguf").write_text("weights")
    claim = Claim(folder, "ns/a", ("mine",), prune_after=0.1)
    claim.use()
    assert not (folder / "mine/.owners").exists()
    assert Claim(folder, "ns/a", (), prune_after=0.0).prune() == []
    assert keys(folder) == ["mine"]


def test_use_keeps_the_marker_young(folder):
    claim = downloaded(folder, "ns/a", "key")
    age(10_000, marker(folder, "key", "ns/a"))
    claim.use()
    assert Claim(folder, "ns/a", ()).prune() == []


def test_signs_of_life_need_no_space(folder, monkeypatch):
    """Else a full disk would let other pods remove what this one uses."""
    claim = downloaded(folder, "ns/a", "key")
    claim.use()
    age(10_000, user(folder, "ns/a"), marker(folder, "key", "ns/a"))

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "write_atomically", full)
    claim.use()
    assert Claim(folder, "ns/a", ("key",)).prune() == []
    assert user(folder, "ns/a").stat().st_mtime > marker(folder, "key", "ns/a").stat().st_mtime - 1


def test_a_list_that_cannot_be_read_keeps_everything(folder):
    downloaded(folder, "ns/a", "old")
    age(10_000, marker(folder, "old", "ns/a"))
    claim = Claim(folder, "ns/a", ())
    claim.use()
    user(folder, "ns/a", "pod-2").write_text("")
    with pytest.raises(ValueError):
        claim.prune()
    assert keys(folder) == ["old"]


def test_leftovers_of_a_killed_pruner_are_removed(folder):
    downloaded(folder, "ns/a", "half")
    marker(folder, "half", "ns/a").unlink()  # and the process ended
    claim = Claim(folder, "ns/b", ())
    assert claim.prune() == []
    age(601, folder / "half/.owners")
    (folder / ".trash-1").mkdir()
    assert claim.prune() == ["half"]
    assert keys(folder) == [".trash-1"]
    assert Claim(folder, "ns/b", (), prune_after=-1.0).prune() == []
    assert keys(folder) == []


def test_a_folder_that_is_named_while_it_goes_comes_back(folder, monkeypatch):
    """Another owner's fetch enters itself between the look at the markers and the rename."""
    downloaded(folder, "ns/a", "old")
    age(10_000, marker(folder, "old", "ns/a"))
    real = cache._remove

    def remove(path):
        Claim(folder, "ns/b", ("old",)).name()
        return real(path)

    monkeypatch.setattr(cache, "_remove", remove)
    assert Claim(folder, "ns/a", ()).prune() == []
    assert (folder / "old/model.gguf").exists()
    assert marker(folder, "old", "ns/b").exists()


def test_many_pruners_at_once_remove_each_key_once(folder):
    downloaded(folder, "ns/a", *(f"k{number}" for number in range(50)))
    age(10_000, *(marker(folder, f"k{number}", "ns/a") for number in range(50)))
    removed, errors = [], []

    def prune():
        try:
            removed.extend(Claim(folder, "ns/a", ("k0",)).prune())
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=prune) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert sorted(removed) == sorted(f"k{number}" for number in range(1, 50))
    assert keys(folder) == ["k0"]


# ---- real servers


def server(folder, tmp_path, *use, prune_after="1"):
    """A server that stays although it has no model."""
    args = ["-m", str(tmp_path / "none.gguf"), "--stay-on-load-error", "--models-dir", str(folder)]
    args += ["--models-owner", "ns/a", "--models-prune-after", prune_after]
    args += [word for key in use for word in ("--models-use", key)]
    return ServerProcess(*args, wait=False)


def test_a_server_keeps_what_it_uses_and_removes_what_was_dropped(folder, tmp_path):
    downloaded(folder, "ns/a", "old", "new", "projector")
    age(10, *(marker(folder, key, "ns/a") for key in ("old", "new", "projector")))
    with server(folder, tmp_path, "new,projector") as running:
        until(lambda: not (folder / "old").exists(), "the dropped key goes")
        first = user(folder, "ns/a").stat().st_mtime_ns
        until(lambda: user(folder, "ns/a").stat().st_mtime_ns != first, "another sign of life")
        assert json.loads(user(folder, "ns/a").read_text()) == ["new", "projector"]
        until(lambda: "no server uses it any more" in running.log, "a log line")
    assert keys(folder) == ["new", "projector"]


def test_a_rollout_keeps_the_old_model_while_an_old_pod_lives(folder, tmp_path):
    """The old pod: a sign of life under another host's name, first of an hour ahead, then of an hour ago."""
    downloaded(folder, "ns/a", "old", "new")
    age(10, marker(folder, "old", "ns/a"))
    (folder / ".users").mkdir()
    old, mine = user(folder, "ns/a", "old-pod"), user(folder, "ns/a")
    old.write_text(json.dumps(["old"]))
    age(-3600, old)
    looks = set()

    def looked():
        looks.add(mine.exists() and mine.stat().st_mtime_ns)
        return len(looks) >= 6

    with server(folder, tmp_path, "new"):
        until(looked, "the new pod has looked five times")
        assert (folder / "old/model.gguf").exists()
        age(7200, old)
        until(lambda: not (folder / "old").exists(), "the old pod is gone for long")
    assert (folder / "new/model.gguf").exists()


def test_a_folder_that_cannot_be_written_is_a_warning(tmp_path):
    (tmp_path / "file").write_text("")
    with server(tmp_path / "file", tmp_path, "new") as running:
        until(lambda: "cannot update the records of use" in running.log, "a warning")
        assert running.process.poll() is None
