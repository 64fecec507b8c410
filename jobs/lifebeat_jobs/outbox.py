"""TEMPORARY STUB by the lead; the helper's file replaces it."""
from __future__ import annotations
import contextlib, sqlite3
from dataclasses import dataclass
from pathlib import Path
from collections.abc import Iterator
from lifebeat.errors import LifebeatError
from lifebeat.locks import held
class OutboxUnavailable(LifebeatError): ...
@dataclass(frozen=True)
class Bounds:
    events: int = 1000
    bytes: int = 5242880
    age: float = 30*86400
@dataclass(frozen=True)
class Entry:
    uuid: str; event: str; body: str; recorded_at: float; state: str; attempts: int; next_attempt: float; status: int|None; answer: str|None; finished_at: float|None
@dataclass(frozen=True)
class Waiting:
    count: int; bytes: int; since: float|None; next_attempt: float|None; dropped: int
class Outbox:
    def __init__(self, path, *, bounds=Bounds(), clock, warn, busy_timeout=1.0):
        self.path, self.clock = path, clock
    @contextlib.contextmanager
    def db(self):
        c = sqlite3.connect(self.path or ":memory:")
        c.execute("create table if not exists e(uuid text primary key,event,body,recorded_at,state,attempts,next_attempt,status,answer,finished_at)")
        c.execute("create table if not exists n(k primary key,v)")
        try:
            with c: yield c
        finally: c.close()
    def record(self, uuid, event, body):
        with self.db() as c: c.execute("insert into e values(?,?,?,?,'waiting',0,?,null,null,null)", (uuid,event,body,self.clock.time(),self.clock.time()))
    def suppressed(self, uuid, event, body, reason):
        with self.db() as c: c.execute("insert into e values(?,?,?,?,'suppressed',0,?,null,?,null)", (uuid,event,body,self.clock.time(),self.clock.time(),reason))
    def due(self, limit):
        with self.db() as c: return [Entry(*r) for r in c.execute("select * from e where state='waiting' and next_attempt<=? order by recorded_at limit ?", (self.clock.time(),limit))]
    def _set(self, uuids, sql, *a):
        with self.db() as c:
            for u in uuids: c.execute(f"update e set {sql} where uuid=?", (*a,u))
    def delivered(self, uuids, status): self._set(uuids, "state='delivered',status=?,attempts=attempts+1,finished_at=?", status, self.clock.time())
    def postponed(self, uuids, *, until, answer, status): self._set(uuids, "attempts=attempts+1,next_attempt=?,answer=?,status=?", until, answer, status)
    def dropped(self, uuids, answer, status=None): self._set(uuids, "state='dropped',answer=?,status=?,finished_at=?", answer, status, self.clock.time())
    def suppress_waiting(self, reason):
        with self.db() as c: return c.execute("update e set state='suppressed',answer=? where state='waiting'",(reason,)).rowcount
    def waiting(self):
        if self.path is not None and not Path(self.path).exists(): return Waiting(0,0,None,None,0)
        with self.db() as c: return Waiting(*c.execute("select count(*),coalesce(sum(length(body)),0),min(recorded_at),min(next_attempt),0 from e where state='waiting'").fetchone())
    def entries(self, limit=100, state=None):
        if not Path(self.path).exists(): return []
        with self.db() as c: return [Entry(*r) for r in c.execute("select * from e where ? is null or state=? order by recorded_at desc limit ?", (state,state,limit))]
    def note_once(self,k,v):
        with self.db() as c: return c.execute("insert or ignore into n values(?,?)",(k,v)).rowcount==1
    def note(self,k):
        with self.db() as c:
            r=c.execute("select v from n where k=?",(k,)).fetchone(); return r and r[0]
    def set_note(self,k,v):
        with self.db() as c: c.execute("insert or replace into n values(?,?)",(k,v))
    @contextlib.contextmanager
    def sending(self) -> Iterator[bool]:
        with held(Path(str(self.path)+".lock"), timeout=0) as got: yield got
