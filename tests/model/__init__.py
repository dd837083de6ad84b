"""Every interleaving of a small model of the claim's protocol.

The decisions are production's own: the model calls the rules of `domain/`. Around them it models what can
happen between two steps:

- a read and its commit are two steps, and the commit counts only if the record is still what was read;
- messages are lost, duplicated, late, and sent again; a worker or a web process dies at any point;
- the orchestrator accepts, refuses, or is not reached, or its answer is lost, after it executed or not;
- its callbacks come at any time once it executes; editors run, retry and cancel; operators settle;
- time passes in whole units, at any point, also between a read and its commit.

These may happen any number of times. Only the epochs of a job, the messages in the queue, and the processes
of a kind that act at once are bounded (`scenarios.py`). Within these bounds the search is exhaustive.

A pause of dispatching is not modelled, because it adds no step to the protocol. It removes a worker's begin
(the commit is refused, as if the worker never came to it) and resends, and it delays the sweep, which may act
at any time here. A message that is put back is one that is lost and one that is sent again. So every sequence
with a pause is among those that are searched. That the pause holds is tested on the real store
(`tests/integration/test_pause.py`).

A job's time to live is modelled: a job that a commit leaves at rest may expire at any moment after it. In the
real store at least a day passes first.

Two abstractions:

- The check of a worker's deadline and the first byte of its POST are one step. A real worker can be stopped
  between the two, for longer than lease and hold together, and no store can see it.
- If a record has changed since it was read, the process starts over at once instead of failing its commit
  first: no two records that a job had at different times are equal byte for byte.
"""
