"""Every interleaving of a small model of the claim's protocol.

What decides is production's own: the rules of `domain` are called, not copied. What is modelled around them
is what can happen between two of their steps:

- a read and its commit are two steps, and the commit counts only if the record is still what was read;
- messages are lost, doubled, late, and come again; a worker dies at any point; so does a web process;
- the orchestrator accepts, refuses, is not reached, or its answer is lost, having executed or not;
- its callbacks come at any time once it executes; editors run, retry and cancel, operators settle;
- time passes in whole units, at any point, also between a read and its commit.

Nothing of this is limited in number. Bounded are the epochs of a job, the messages in the queue, and how
many processes of a kind act at once (`scenarios.py`); within these bounds the search is exhaustive.

A pause of dispatching is not modelled: it adds no step to the claim's protocol. It takes away the worker's
beginning (the commit refuses it, which is a worker that never gets to it) and resends, and it delays what the
sweep does, which may happen at any time here. A message that is put back is one that is lost and one that comes
again. So every sequence with a pause in it is one of those that are searched; that the pause holds is tested on
the real store (`tests/integration/test_pause.py`).

A job's time to live is: any job that a commit leaves at rest may expire at any moment after it. That is sooner
than in the real store, where a day at least must pass.

Two abstractions to know of:

- The check of a worker's deadline and the first byte of its POST are one step here. In a real machine a
  worker can be stopped between the two, for longer than lease and hold together, and no store can see it.
- A commit that was decided on a record which has changed since is taken at once for a try from the start:
  no two records that a job had at different times are equal byte for byte.
"""
