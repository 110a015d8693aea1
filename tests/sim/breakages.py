"""The deliberate breakages of the mutation check (see mutants.py): each place that is broken, and what stands there then."""

from __future__ import annotations

from typing import NamedTuple


class Mutant(NamedTuple):
    """`old`, which stands in that file once, becomes `new`."""

    name: str
    file: str
    old: str
    new: str


def m(name: str, file: str, old: str, new: str) -> Mutant:
    return Mutant(name, file, old, new)


MUTANTS = (
    # the log
    m("an append ignores that its number is taken", "engine/ledger.py",
      "            raise WriteRefused(refused.why) if refused.why and refused.standing[0] is None else Superseded\n",
      "            pass\n"),
    m("a refused write of the user's is taken for a lost race", "engine/ledger.py",
      "raise WriteRefused(refused.why) if refused.why and refused.standing[0] is None else Superseded", "raise Superseded"),
    m("the user's own writes are forgotten", "engine/advance.py",
      "self._append(body, text, self.writes)", "self._append(body, text)"),
    m("the user's own writes in a lane stand before its record", "engine/fanout.py",
      "        refused = self.ledger.store.write([Put(item), *also], own)\n",
      "        first = self.ledger.item(self.fold.run, attempt_key(self.lane, 9999), {})\n        if own:\n            self.ledger.store.write([Put(first)], own)\n        refused = self.ledger.store.write([Put(item), *also])\n"),
    # callbacks
    m("an answer that came is told that it was too late", "engine/fanout.py",
      "        if came is not None:  # what would have come too late was there before\n", "        if False:\n"),
    m("a wait that ends with nothing does not close its answer's place", "engine/fanout.py",
      "[*closing, *places]", "[*places]"),
    m("the end of a run ignores that the log has grown", "engine/ledger.py",
      "                raise Superseded\n            fold.head = refused", "                return\n            fold.head = refused"),
    m("a warm sandbox does not read what is newer", "engine/ledger.py",
      "            items = self.store.read(partition, log_key(fold.next_seq), LOG_END if upto is None else log_key(upto))",
      "            items = []"),
    m("the end of a run leaves its head as it was", "engine/ledger.py",
      'fields.update(status=status.after(fold.status, last["k"]), ended=last["at"])', 'fields.update(ended=last["at"])'),
    m("an ended run is still due", "engine/ledger.py",
      "            ended = self.item(fold.run, HEAD, fields)\n",
      "            ended = self.item(fold.run, HEAD, fields, due_ms=head.due_ms)\n"),
    m("a run is born without a due time", "engine/ledger.py",
      "            Put(self.item(run, HEAD, head, due_ms=due_ms)),", "            Put(self.item(run, HEAD, head)),"),
    m("what is written with the end of a run is forgotten", "engine/ledger.py",
      "Swap(ended, head.token), *also, *drops", "Swap(ended, head.token), *drops"),
    # the store
    m("a lost reply is read as a lost race", "aws/dynamodb.py",
      "return standing is not None and standing.token == write.item.token", "return False"),
    m("a swap does not look at the token", "aws/dynamodb.py",
      '            put["ConditionExpression"] = _SAME\n            put["ExpressionAttributeValues"] = {":expected": {"S": write.expected}}\n',
      '            del put["ConditionExpression"]\n'),
    m("a transaction that met another is taken for applied", "aws/dynamodb.py",
      'if not codes or not codes <= PASSING_REASONS:', 'if codes == {"TransactionConflict"}:\n                    return None\n                if not codes or not codes <= PASSING_REASONS:'),
    m("a read stops after its first item", "aws/dynamodb.py",
      "return [_item(fields) for fields in self._query(request, limit)]",
      "return [_item(fields) for fields in self._query(request, limit)][:5]"),
    # wakes
    m("the next wake is never sent", "engine/advance.py",
      "        for wake, at_ms in self.sends:\n            self.engine.send(wake, at_ms)\n        self.ledger.keep(self.fold)\n\n    def replayed",
      "        self.ledger.keep(self.fold)\n\n    def replayed"),
    m("the wake is sent before the append", "engine/advance.py",
      "            body, text = self.attempt(wanted, attempts + 1)\n",
      '            early = {"do": "advance", "run": fold.run, "seq": fold.next_seq + 1}\n            self.engine.send(early)\n            body, text = self.attempt(wanted, attempts + 1)\n'),
    m("a stale wake is performed", "engine/advance.py",
      'elif fold.ended is not None or fold.next_seq > wake["seq"]:', "elif fold.ended is not None:"),
    m("the sweep is skipped", "engine/sweep.py", "    now_ms = engine.clock.now_ms()\n    swept = 0\n",
      "    return\n    now_ms = engine.clock.now_ms()\n    swept = 0\n"),
    m("the sweep never gives up", "engine/sweep.py", "if stalls > MAX_STALLS:", "if stalls > 1 << 30:"),
    m("the sweep counts no stalls", "engine/sweep.py", "body.update(stalls=stalls, stall_seq=seq)", "body.update(stalls=1, stall_seq=seq)"),
    m("the sweep sends its wakes and leaves due as it was", "engine/sweep.py",
      "    if engine.store.write([Swap(item, head.token)]) is not None:\n        return  # another sweep, or the run itself, was faster\n", ""),
    m("recovering wakes nothing in flight", "engine/fanout.py",
      "        engine.send(_step_wake(fold.run, (move.seq, index), attempt), until_ms)\n        times.append", "        times.append"),
    m("recovering wakes no run in sequence", "engine/fanout.py",
      '    engine.send({"do": "advance", "run": run, "seq": fold.next_seq})  # where it waits for steps in flight, it stops\n', ""),
    m("finished steps beside a sleep are taken for overdue", "engine/fanout.py",
      "            continue  # it waits to be observed together with others\n", "            times.append(0)\n            continue\n"),
    m("a sleep whose invocation died is taken for overdue", "engine/fanout.py",
      "until_ms = until_ms or attempt_of", "until_ms = attempt_of"),
    m("recovering trusts the head that is kept warm", "engine/fanout.py",
      "        fold.head = None  # the sweep has moved it: what is kept warm is older\n", ""),
    m("a look of the timer is not fenced", "engine/fanout.py",
      "    if standing is not None and _look_of(standing) >= look:\n        return False\n", ""),
    m("the timer never starts", "engine/fanout.py", "    if move.wide and not timer_runs:\n", "    if False:\n"),
    m("an event starts a run and sends no wake", "engine/ingest.py",
      '    engine.send({"do": "advance", "run": run, "seq": 1})', '    {"do": "advance", "run": run, "seq": 1}'),
    m("a sleep ends a little early", "engine/advance.py",
      "        return until_ms <= self.engine.clock.now_ms()", "        return until_ms <= self.engine.clock.now_ms() + 1_000"),
    m("a failed step is tried again at once", "engine/advance.py",
      "        if trouble is not None and trouble.until_ms > now_ms:\n", "        if False:\n"),
    # deaths
    m("a death costs no attempt", "engine/control.py",
      '        engine.ledger.append(fold, {"k": status.DIED, "at": engine.clock.now_ms(), "why": reason})', "        pass"),
    m("a death beside others costs no attempt", "engine/control.py",
      '            engine.send({**wake, "attempt": wake["attempt"] + 1})', "            engine.send(wake)"),
    m("a death is told as an error of a service", "entry/aws.py", "        if failure.killed:\n", "        if False:\n"),
    m("a step is performed where no wake can be blamed for it", "engine/advance.py",
      "        if not self.performs:\n            self._leave_until(None)\n", ""),
    m("nobody is woken after a death between append and wake", "engine/control.py",
      '        engine.send({**go_on, "run": fold.run}, _later_ms(engine, look_again_ms))\n        return', "        return"),
    # once, keys, attempts
    m("a step that may run only once is not noted before it runs", "engine/advance.py",
      "            if wanted.once:\n                self._append(self._outcome(wanted, status.BEGUN, attempts + 1))\n", ""),
    m("a step that had begun and may run only once runs again", "engine/advance.py",
      "if begun or (fold.deaths", "if (fold.deaths"),
    m("a step beside others that may run only once runs again", "engine/fanout.py",
      "if not begun and self.number <= wanted.retry.max_attempts:", "if self.number <= wanted.retry.max_attempts:"),
    m("the idempotency key changes with the attempt", "engine/advance.py",
      "idempotency_key(fold.run, wanted.key)", "idempotency_key(fold.run, (wanted.key[0], wanted.key[1] + attempt))"),
    m("attempts are not counted", "engine/advance.py", "        attempts = fold.attempts(wanted.key)\n", "        attempts = 0\n"),
    m("an event that comes twice starts two runs", "engine/ingest.py",
      "[run_id(workflow, event.id) for workflow", "[run_id(workflow, event.id + engine.clock.token()) for workflow"),
    # steps beside each other
    m("in a lane the last result wins", "engine/fanout.py",
      "        standing = item if refused is None else refused.standing[0]\n", "        standing = item\n"),
    m("what was observed is not written", "engine/advance.py", '            "seen": self.seen,\n            "count": len(fresh),', '            "seen": [],\n            "count": len(fresh),'),
    m("a result is visible before it was observed", "core/replay.py",
      "            if lane not in self._given:\n                return None\n", "            if lane not in self._fold.results:\n                return None\n"),
    m("a plan is not held against the log", "core/replay.py",
      "if len(fresh) != move.count or plan_digest(w.key for w in fresh) != move.digest:", "if False:"),
    m("finished steps that are not called any more go unnoticed", "core/replay.py",
      "        if unasked := self.unasked():\n            raise", "        if False:\n            raise"),
    m("all steps of one name are one", "core/replay.py", "ordinal = self._ordinals.get(name, 0) + 1", "ordinal = 1"),
    m("a loser that comes in late supersedes who performs a step", "engine/advance.py",
      "        if self.replay.unwritten:\n            raise Leave", "        if False:\n            raise Leave"),
    m("what nobody awaits any more stays in flight", "core/log.py",
      '        if body.get("left"):\n            self.flight.clear()\n', ""),
    m("a cancel leaves the lanes open", "engine/control.py",
      "        closing = _open_lanes(engine, fold)\n", "        closing: list[Lane] = []\n"),
    m("a run that has ended is made due again", "engine/ledger.py",
      '        if body.get("status") in status.ENDED:\n            raise Superseded\n', ""),
    m("completions of a wide plan are not marked", "engine/fanout.py",
      '    adds = {"done": [member]', '    adds = {"done": ["0"]'),
    # values and doors
    m("the digest of a blob is not checked", "aws/blobs.py", "if hashlib.sha256(content).hexdigest() != digest:", "if False:"),
    m("a key that looks like a tag is not escaped", "core/codec.py", 'if "$" in inside else inside', "if False else inside"),
    m("messages that failed are called done", "entry/aws.py", '                failures.append({"itemIdentifier": message})\n', ""),
    m("a wake for later comes a second early", "aws/wakes.py", "-(-ahead_ms // 1000)", "ahead_ms // 1000"),
    m("a run of a newer layout is taken on", "core/log.py", 'if body["layout"] > LAYOUT:', "if False:"),
    m("nothing is told when a run has failed", "engine/engine.py",
      "        after = failure_run(self, fold, failure)\n", "        after = None\n"),
)  # fmt: skip
