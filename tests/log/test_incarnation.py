"""A database that goes back in time, seen by rounds: what begins a new incarnation, and what does not."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from django.db import connection, transaction

from realtime.log import Published, incarnation, mark, new_epochs, outbox, read_states, sql, witness
from realtime.models import Incarnation, Log
from realtime.protocol.names import ChannelName
from tests.conftest import MS, eventually
from tests.log.world import (
    ALPHA,
    BETA,
    GAMMA,
    TABLES,
    Saved,
    append,
    channel_id_of,
    check_log,
    code,
    execute,
    message,
    other_connection,
    publish,
    stored,
)

pytestmark = pytest.mark.usefixtures("log")


def execute_one(statement: str) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(statement)
        return cursor.fetchone()[0]


def epoch_of(channel: ChannelName) -> str:
    epoch = read_states([channel])[channel].epoch
    assert epoch is not None
    return epoch


def number() -> int:
    found = incarnation.look()
    assert found is not None
    return found


# -- what goes back --------------------------------------------------------------------------------------------------


def test_the_first_round_after_a_restore_gives_its_serial_in_a_new_epoch(saved: Callable[[], Saved]) -> None:
    publish(append(ALPHA, "a", "b"))
    before, of_before = epoch_of(ALPHA), number()
    copy = saved()
    publish(append(ALPHA, "lost"))
    copy.restore()
    (outcome,) = publish(append(ALPHA, "c"))
    assert isinstance(outcome, Published)
    assert outcome.epoch != before
    assert outcome.serials == [3]
    assert epoch_of(ALPHA) == outcome.epoch
    assert number() != of_before
    assert [row.mid for row in check_log(ALPHA)] == ["a", "b", "c"]


def test_an_id_that_the_restored_log_knows_has_its_serial_in_the_new_epoch(saved: Callable[[], Saved]) -> None:
    publish(append(ALPHA, "a"))
    before = epoch_of(ALPHA)
    copy = saved()
    publish(append(ALPHA, "lost"))
    copy.restore()
    (outcome,) = publish(append(ALPHA, "a"))
    assert isinstance(outcome, Published)
    assert (outcome.serials, outcome.duplicates) == ([1], [0])
    assert epoch_of(ALPHA) == outcome.epoch != before


def test_a_restore_is_noticed_each_time_that_the_same_copy_comes_back(saved: Callable[[], Saved]) -> None:
    publish(append(ALPHA, "a"))
    epochs = {epoch_of(ALPHA)}
    copy = saved()
    for turn in range(3):
        publish(append(ALPHA, f"lost{turn}"))
        copy.restore()
        (outcome,) = publish(append(ALPHA, f"new{turn}"))
        assert isinstance(outcome, Published)
        assert outcome.epoch not in epochs
        epochs.add(outcome.epoch)


def test_logs_that_nobody_publishes_to_get_their_epochs_from_whoever_looks(saved: Callable[[], Saved]) -> None:
    publish(append(ALPHA, "a"), append(BETA, "b"), append(GAMMA, "c"))
    before = [epoch_of(name) for name in (ALPHA, BETA, GAMMA)]
    copy = saved()
    publish(append(GAMMA, "lost"))
    copy.restore()
    assert incarnation.look() is None
    assert incarnation.current() == incarnation.look()
    assert incarnation.relabel()
    after = [epoch_of(name) for name in (ALPHA, BETA, GAMMA)]
    assert set(before).isdisjoint(after)
    assert incarnation.relabel()
    assert [epoch_of(name) for name in (ALPHA, BETA, GAMMA)] == after
    # Those that came through the round are not changed again.
    (outcome,) = publish(append(ALPHA, "d"))
    assert isinstance(outcome, Published)
    assert outcome.epoch == after[0]


def test_a_relayed_message_is_in_a_new_epoch_too(saved: Callable[[], Saved]) -> None:
    publish(append(ALPHA, "a"))
    before = epoch_of(ALPHA)
    copy = saved()
    publish(append(ALPHA, "lost"))
    copy.restore()
    with transaction.atomic():
        outbox.put(ALPHA, "ana", message("b"))
    assert outbox.relay(lambda news: None, lambda channel: True) == 1
    assert epoch_of(ALPHA) != before
    assert [row.mid for row in check_log(ALPHA)] == ["a", "b"]


def test_a_restore_that_takes_back_nothing_but_relayed_messages_is_noticed(saved: Callable[[], Saved]) -> None:
    publish(append(ALPHA, "a"))
    copy = saved()
    with transaction.atomic():
        outbox.put(ALPHA, "ana", message("lost"))
    assert outbox.relay(lambda news: None, lambda channel: True) == 1
    copy.restore()
    assert incarnation.look() is None


def test_all_that_notice_at_once_give_each_log_one_epoch(saved: Callable[[], Saved]) -> None:
    names = [ChannelName(f"log{i}") for i in range(60)]
    publish(*[append(name, "a") for name in names])
    before = {name: epoch_of(name) for name in names}
    copy = saved()
    publish(*[append(name, "lost") for name in names])
    copy.restore()
    with changes_of_epochs() as changes:
        gate = threading.Barrier(4)
        failures: list[BaseException] = []

        def notice(number: int) -> None:
            try:
                gate.wait(20_000 * MS)
                if number % 2:
                    for name in names[number::4]:
                        for outcome in publish(append(name, f"new{number}")):
                            stored(outcome)
                else:
                    incarnation.current()
                    incarnation.relabel()
            except BaseException as failure:
                failures.append(failure)
            finally:
                connection.close()

        threads = [threading.Thread(target=notice, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60_000 * MS)
        assert not failures
        incarnation.relabel()
        counts = changes()
    assert counts == {channel_id_of(name): 1 for name in names}
    assert all(epoch_of(name) != before[name] for name in names)


@contextmanager
def changes_of_epochs() -> Iterator[Callable[[], dict[int, int]]]:
    """Counts, in the database, how often the epoch of each log changes."""
    execute("CREATE TABLE changes (channel_id bigint)")
    if connection.vendor == "sqlite":
        execute(
            "CREATE TRIGGER note_change AFTER UPDATE OF epoch ON realtime_log WHEN new.epoch <> old.epoch"
            " BEGIN INSERT INTO changes VALUES (new.channel_id); END"
        )
        undo = ["DROP TRIGGER note_change"]
    else:
        execute(
            "CREATE FUNCTION note_change() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            " INSERT INTO changes VALUES (new.channel_id); RETURN NULL; END $$",
            "CREATE TRIGGER note_change AFTER UPDATE OF epoch ON realtime_log FOR EACH ROW"
            " WHEN (new.epoch <> old.epoch) EXECUTE FUNCTION note_change()",
        )
        undo = ["DROP TRIGGER note_change ON realtime_log", "DROP FUNCTION note_change()"]

    def counted() -> dict[int, int]:
        with connection.cursor() as cursor:
            cursor.execute("SELECT channel_id, count(*) FROM changes GROUP BY channel_id")
            return dict(cursor.fetchall())

    try:
        yield counted
    finally:
        execute(*undo, "DROP TABLE changes")


def test_a_head_that_fell_begins_a_new_incarnation_once() -> None:
    publish(append(ALPHA, "a", "b", "c"), append(BETA, "a"))
    before = {name: epoch_of(name) for name in (ALPHA, BETA)}
    of_before = number()
    # A disk that was turned back changes the head and nothing else.
    execute("DELETE FROM realtime_message WHERE serial = 3", "UPDATE realtime_log SET head = 2 WHERE head = 3")
    incarnation.fell(channel_id_of(ALPHA), before[ALPHA], 3)
    after, of_after = epoch_of(ALPHA), number()
    assert after != before[ALPHA]
    assert of_after != of_before
    # A second one who noticed comes too late to change anything.
    incarnation.fell(channel_id_of(ALPHA), before[ALPHA], 3)
    assert (epoch_of(ALPHA), number()) == (after, of_after)
    assert incarnation.relabel()
    assert epoch_of(BETA) != before[BETA]


def test_a_head_that_did_not_fall_changes_nothing() -> None:
    publish(append(ALPHA, "a", "b"))
    epoch, of_now = epoch_of(ALPHA), number()
    incarnation.fell(channel_id_of(ALPHA), epoch, 2)
    incarnation.fell(channel_id_of(ALPHA), "other", 7)
    incarnation.fell(10**9, epoch, 7)
    assert (epoch_of(ALPHA), number()) == (epoch, of_now)


@pytest.mark.postgres
@pytest.mark.parametrize("tables", [TABLES[1:3], TABLES[1:4]], ids=["log and messages", "latest too"])
def test_a_part_of_a_dump_in_the_emptied_table_is_noticed(saved: Callable[[], Saved], tables: tuple[str, ...]) -> None:
    publish(append(ALPHA, "a"))
    before = epoch_of(ALPHA)
    copy = saved()
    publish(append(ALPHA, "lost"))
    copy.restore(tables)
    (outcome,) = publish(append(ALPHA, "b"))
    assert isinstance(outcome, Published)
    assert outcome.epoch != before


@pytest.mark.postgres
def test_rows_that_were_deleted_and_put_back_are_noticed(saved: Callable[[], Saved]) -> None:
    publish(append(ALPHA, "a"))
    before = epoch_of(ALPHA)
    saved()
    publish(append(ALPHA, "lost"))
    with transaction.atomic():
        execute("DELETE FROM realtime_message", "DELETE FROM realtime_log")
        execute("INSERT INTO realtime_log SELECT * FROM saved.realtime_log")
        execute("INSERT INTO realtime_message SELECT * FROM saved.realtime_message")
    (outcome,) = publish(append(ALPHA, "b"))
    assert isinstance(outcome, Published)
    assert outcome.epoch != before


@pytest.mark.postgres
def test_a_table_of_logs_that_was_made_anew_is_noticed() -> None:
    publish(append(ALPHA, "a"))
    before = epoch_of(ALPHA)
    execute(
        "ALTER TABLE realtime_log RENAME TO former_log",
        "CREATE TABLE realtime_log (LIKE former_log INCLUDING ALL)",
        "INSERT INTO realtime_log SELECT * FROM former_log",
    )
    try:
        (outcome,) = publish(append(ALPHA, "b"))
        assert isinstance(outcome, Published)
        assert outcome.epoch != before
    finally:
        execute("DROP TABLE realtime_log", "ALTER TABLE former_log RENAME TO realtime_log")


@pytest.mark.postgres
@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("UPDATE realtime_incarnation SET timeline = '000000AF', started = 'epoch'", "another timeline"),
        ("UPDATE realtime_incarnation SET system = '1', started = 'epoch'", "another cluster"),
        ("UPDATE realtime_incarnation SET database = '1', started = 'epoch'", "a copy of the database"),
        ("UPDATE realtime_incarnation SET number = number", "its tables were restored"),
        ("INSERT INTO realtime_incarnation SELECT * FROM realtime_incarnation", "partly restored"),
        ("DELETE FROM realtime_incarnation", "nothing says which it is"),
    ],
)
def test_each_difference_begins_a_new_incarnation(change: str, why: str, caplog: pytest.LogCaptureFixture) -> None:
    publish(append(ALPHA, "a"))
    before, of_before = epoch_of(ALPHA), number()
    execute(change)
    if "started" in change:
        # As it is written: by one transaction that knows itself.
        execute("UPDATE realtime_incarnation SET writer = pg_current_xact_id()::xid::text")
    assert incarnation.look() is None
    (outcome,) = publish(append(ALPHA, "b"))
    assert isinstance(outcome, Published)
    assert outcome.epoch != before
    assert number() != of_before
    assert why in caplog.text


# -- what stays -------------------------------------------------------------------------------------------------------


def test_nothing_changes_when_connections_are_made_anew() -> None:
    publish(append(ALPHA, "a"))
    before, of_before = epoch_of(ALPHA), number()
    for turn in range(3):
        connection.close()
        publish(append(ALPHA, f"b{turn}"))
    assert (epoch_of(ALPHA), number()) == (before, of_before)
    assert incarnation.relabel()


@pytest.mark.postgres
@pytest.mark.parametrize("table", ["realtime_log", "realtime_incarnation"])
@pytest.mark.parametrize("command", ["VACUUM FULL", "VACUUM FREEZE", "ANALYZE", "REINDEX TABLE", "CLUSTER"])
def test_nothing_changes_when_a_table_is_written_anew_by_the_server(command: str, table: str) -> None:
    publish(append(ALPHA, "a"))
    before, of_before = epoch_of(ALPHA), number()
    if command == "CLUSTER":
        execute(f"CREATE INDEX in_order ON {table} ({'channel_id' if table.endswith('log') else 'number'})")
        execute(f"CLUSTER {table} USING in_order", "DROP INDEX in_order")
    else:
        execute(f"{command} {table}")
    publish(append(ALPHA, "b"))
    assert (epoch_of(ALPHA), number()) == (before, of_before)


@pytest.mark.postgres
def test_the_witness_has_nothing_that_pg_repack_could_go_by() -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_index WHERE indrelid = 'realtime_incarnation'::regclass AND indisunique"
        )
        assert cursor.fetchone() == (0,)


@pytest.mark.postgres
def test_a_server_that_was_started_again_is_the_same() -> None:
    publish(append(ALPHA, "a"))
    before, of_before = epoch_of(ALPHA), number()
    execute(
        "UPDATE realtime_incarnation SET started = started - interval '1 day', writer = pg_current_xact_id()::xid::text"
    )
    assert incarnation.look() is None
    publish(append(ALPHA, "b"))
    assert (epoch_of(ALPHA), number()) == (before, of_before)


@pytest.mark.postgres
def test_a_server_that_says_little_is_compared_by_what_it_says(caplog: pytest.LogCaptureFixture) -> None:
    publish(append(ALPHA, "a"))
    before, of_before = epoch_of(ALPHA), number()
    functions = (
        "pg_control_system()",
        "pg_control_checkpoint()",
        "pg_walfile_name(pg_lsn)",
        "pg_current_wal_flush_lsn()",
    )
    try:
        execute(
            *(f"REVOKE EXECUTE ON FUNCTION {function} FROM PUBLIC" for function in functions),
            "UPDATE realtime_incarnation SET started = 'epoch', writer = pg_current_xact_id()::xid::text",
            "CREATE ROLE restricted",
            "GRANT ALL ON ALL TABLES IN SCHEMA public TO restricted",
            "GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO restricted",
            "SET ROLE restricted",
        )
        (outcome,) = publish(append(ALPHA, "b"))
        assert isinstance(outcome, Published)
        # The same database, as far as anybody can tell; what it was before is not forgotten.
        assert (outcome.epoch, number()) == (before, of_before)
        assert "new_epoch --all" in caplog.text
        assert Incarnation.objects.get().timeline == "00000001"
        execute("UPDATE realtime_incarnation SET number = number")
        (outcome,) = publish(append(ALPHA, "c"))
        assert isinstance(outcome, Published)
        assert outcome.epoch != before
    finally:
        execute(
            "RESET ROLE",
            *(f"GRANT EXECUTE ON FUNCTION {function} TO PUBLIC" for function in functions),
            "DROP OWNED BY restricted",
            "DROP ROLE restricted",
        )
        incarnation._Memory.is_told = True


@pytest.mark.postgres
def test_a_server_that_lacks_what_was_seen_there_has_gone_back(monkeypatch: pytest.MonkeyPatch) -> None:
    publish(append(ALPHA, "a"))
    before, of_before = epoch_of(ALPHA), number()
    assert incarnation._Memory.flushed is not None
    monkeypatch.setattr(incarnation._Memory, "flushed", incarnation._Memory.flushed + 10**12)
    # Rounds ask nobody for it, until the server is started again.
    execute("UPDATE realtime_incarnation SET started = 'epoch', writer = pg_current_xact_id()::xid::text")
    (outcome,) = publish(append(ALPHA, "b"))
    assert isinstance(outcome, Published)
    assert outcome.epoch != before
    assert number() != of_before


@pytest.mark.postgres
def test_who_did_not_settle_asks_his_own_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The witness was written by a process that remembers nothing."""
    publish(append(ALPHA, "a"))
    before = epoch_of(ALPHA)
    assert incarnation._Memory.flushed is not None
    remembered = incarnation._Memory.flushed + 10**12
    execute("UPDATE realtime_incarnation SET started = 'epoch', writer = pg_current_xact_id()::xid::text")
    monkeypatch.setattr(incarnation._Memory, "number", None)
    session = witness.session
    incarnation.settle()
    monkeypatch.setattr(witness, "session", session)
    monkeypatch.setattr(incarnation._Memory, "number", number())
    monkeypatch.setattr(witness, "session", session)
    monkeypatch.setattr(incarnation._Memory, "flushed", remembered)
    (outcome,) = publish(append(ALPHA, "b"))
    assert isinstance(outcome, Published)
    assert outcome.epoch != before


def test_within_a_transaction_of_somebody_else_nothing_is_asked() -> None:
    with transaction.atomic():
        execute("DELETE FROM realtime_incarnation")
        (outcome,) = publish(append(ALPHA, "a"))
        assert stored(outcome) == [1]
        transaction.set_rollback(True)


def test_a_database_that_forbids_to_settle_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    publish(append(ALPHA, "a"))
    before = epoch_of(ALPHA)
    execute("DELETE FROM realtime_incarnation")

    def refuse() -> int:
        raise RuntimeError("not now")

    monkeypatch.setattr(incarnation, "settle", refuse)
    (outcome,) = publish(append(ALPHA, "b"))
    assert code(outcome) == "unavailable"
    monkeypatch.undo()
    (outcome,) = publish(append(ALPHA, "b"))
    assert isinstance(outcome, Published)
    assert outcome.serials == [2]
    assert outcome.epoch != before


@pytest.mark.postgres
def test_a_round_that_waited_for_a_new_epoch_does_not_give_another(realtime_settings: Callable[..., None]) -> None:
    """Its statement began before the incarnation did, and has the log only when that has its new epoch."""
    realtime_settings(LOCK_TIMEOUT_MS=20_000)
    publish(append(ALPHA, "a"))
    channel_id = channel_id_of(ALPHA)
    outcomes: list[object] = []

    def publish_b() -> None:
        outcomes.extend(publish(append(ALPHA, "b")))
        connection.close()

    thread = threading.Thread(target=publish_b)
    with other_connection() as other:
        other.execute("BEGIN")
        other.execute("SELECT 1 FROM realtime_log WHERE channel_id = %s FOR UPDATE", [channel_id])
        thread.start()
        eventually(
            lambda: execute_one("SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'transactionid'"),
            20_000 * MS,
            what="the round waits for the log",
        )
        of_now = incarnation.renew("a test says so")
        other.execute(
            "UPDATE realtime_log SET epoch = 'theirs', incarnation = %s WHERE channel_id = %s", [of_now, channel_id]
        )
        other.execute("COMMIT")
    thread.join(20_000 * MS)
    (outcome,) = outcomes
    assert isinstance(outcome, Published)
    assert (outcome.epoch, outcome.serials) == ("theirs", [2])


@pytest.mark.postgres
def test_no_serial_is_given_in_the_epoch_of_a_log_that_was_locked_while_all_others_got_theirs() -> None:
    publish(append(ALPHA, "a"), append(BETA, "b"))
    before = epoch_of(ALPHA)
    with other_connection() as other:
        other.execute("BEGIN")
        other.execute("SELECT 1 FROM realtime_log WHERE channel_id = %s FOR UPDATE", [channel_id_of(ALPHA)])
        assert new_epochs() == (1, [channel_id_of(ALPHA)])
        assert epoch_of(ALPHA) == before
        other.execute("ROLLBACK")
    (outcome,) = publish(append(ALPHA, "c"))
    assert isinstance(outcome, Published)
    assert outcome.epoch != before


# -- SQLite: files ----------------------------------------------------------------------------------------------------


@pytest.fixture
def file(log: None) -> str:
    """The file of the database, whose journal is in it."""
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    name = connection.settings_dict["NAME"]
    assert isinstance(name, str)
    return name


@pytest.mark.sqlite
def test_the_mark_follows_the_rounds(file: str) -> None:
    for turn in range(3):
        publish(append(ALPHA, f"a{turn}"))
        row = Incarnation.objects.get()
        assert mark.read(mark.path_of(file)) == (row.number, row.rounds)
    publish(append(ALPHA, "a0"))  # a duplicate writes nothing
    assert mark.read(mark.path_of(file)) == (row.number, row.rounds)


@pytest.mark.sqlite
def test_a_mark_behind_its_database_is_what_a_crash_leaves(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(append(ALPHA, "a"))
    before, of_before = epoch_of(ALPHA), number()
    monkeypatch.setattr(mark, "advance", lambda path, mark: None)
    publish(append(ALPHA, "b"))
    monkeypatch.undo()
    publish(append(ALPHA, "c"))
    assert (epoch_of(ALPHA), number()) == (before, of_before)


@pytest.mark.sqlite
@pytest.mark.parametrize("how", ["removed", "copied", "emptied", "of another"])
def test_a_mark_that_is_none_begins_a_new_incarnation(file: str, how: str, tmp_path: Path) -> None:
    publish(append(ALPHA, "a"))
    before = epoch_of(ALPHA)
    path = Path(mark.path_of(file))
    if how == "copied":
        shutil.copy2(path, tmp_path / "copy")
        path.unlink()
        shutil.copy2(tmp_path / "copy", path)
    elif how == "emptied":
        path.write_text("")
    else:
        path.unlink()
        if how == "of another":
            mark.create(str(path), mark.Mark(7, 0), like=file)
    assert incarnation.look() is None
    (outcome,) = publish(append(ALPHA, "b"))
    assert isinstance(outcome, Published)
    assert outcome.epoch != before
    assert mark.read(str(path)) is not None


@pytest.mark.sqlite
def test_a_database_whose_mark_cannot_be_written_serves_all_the_same(
    file: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    publish(append(ALPHA, "a"))
    Path(mark.path_of(file)).unlink()

    def refuse(*arguments: Any, **options: Any) -> None:
        raise PermissionError("read-only")

    monkeypatch.setattr(mark, "create", refuse)
    assert [stored(outcome) for outcome in publish(append(ALPHA, "b"))] == [[2]]
    assert Incarnation.objects.get().rounds is None
    assert "cannot be kept" in caplog.text
    epoch = epoch_of(ALPHA)
    monkeypatch.undo()
    publish(append(ALPHA, "c"))
    assert epoch_of(ALPHA) == epoch
    # As soon as it can, by whoever looks with fresh eyes.
    witness.unmarkable.clear()
    publish(append(ALPHA, "d"))
    assert epoch_of(ALPHA) == epoch
    assert mark.read(mark.path_of(file)) is not None


@pytest.mark.sqlite
def test_a_file_that_was_replaced_is_opened_anew(file: str, tmp_path: Path) -> None:
    publish(append(ALPHA, "a"))
    before = epoch_of(ALPHA)
    copy = Saved(tmp_path)
    publish(append(ALPHA, "lost"))
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    for suffix in ("-wal", "-shm"):
        Path(file + suffix).unlink(missing_ok=True)
    copy.file.replace(file)
    assert read_states([ALPHA])[ALPHA].head == 1
    (outcome,) = publish(append(ALPHA, "b"))
    assert isinstance(outcome, Published)
    assert outcome.serials == [2]
    assert outcome.epoch != before


@pytest.mark.sqlite
def test_a_replaced_file_is_not_touched_while_the_journal_of_the_old_one_lies_beside_it(
    file: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    publish(append(ALPHA, "a"))
    copy = Saved(tmp_path)
    publish(append(ALPHA, "lost"))
    assert Path(file + "-wal").stat().st_size
    copy.file.replace(file)
    (outcome,) = publish(append(ALPHA, "b"))
    assert code(outcome) == "unavailable"
    assert "-wal" in caplog.text
    Path(file + "-wal").unlink()
    Path(file + "-shm").unlink()
    (outcome,) = publish(append(ALPHA, "b"))
    assert isinstance(outcome, Published)
    assert outcome.serials == [2]


@pytest.mark.sqlite
def test_what_was_committed_into_a_file_that_is_gone_is_not_published(
    file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(append(ALPHA, "a"))
    copy = Saved(tmp_path)
    real = sql.Sqlite.store

    def store(self: sql.Sqlite, cursor: Any, writes: Any) -> None:
        real(self, cursor, writes)
        for suffix in ("-wal", "-shm"):
            Path(file + suffix).unlink(missing_ok=True)
        copy.file.replace(file)

    monkeypatch.setattr(sql.Sqlite, "store", store)
    (outcome,) = publish(append(ALPHA, "b"))
    assert code(outcome) == "unavailable"
    monkeypatch.undo()
    (outcome,) = publish(append(ALPHA, "b"))
    assert isinstance(outcome, Published)
    assert outcome.duplicates == []


@pytest.mark.sqlite
def test_no_file_is_made_where_one_was_taken_away(file: str, tmp_path: Path) -> None:
    publish(append(ALPHA, "a"))
    away = tmp_path / "away"
    for suffix in ("-wal", "-shm", ""):
        if Path(file + suffix).exists():
            Path(file + suffix).rename(f"{away}{suffix}")
    (outcome,) = publish(append(ALPHA, "b"))
    assert code(outcome) == "unavailable"
    assert not Path(file).exists()
    for suffix in ("-wal", "-shm", ""):
        if Path(f"{away}{suffix}").exists():
            Path(f"{away}{suffix}").rename(file + suffix)
    assert [stored(outcome) for outcome in publish(append(ALPHA, "b"))] == [[2]]


def test_every_log_says_in_which_incarnation_its_epoch_was_given() -> None:
    publish(append(ALPHA, "a"), append(BETA, "b"))
    assert set(Log.objects.values_list("incarnation", flat=True)) == {number()}
