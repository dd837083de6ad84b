"""Every interleaving of a small model of the claim's protocol.

What decides is production's own: the rules of `domain` are called, not copied, and the index entries are
those of `store.in_flight`. What is modelled around them is what can happen between two of their steps:

- a read and its commit are two steps, and the commit counts only if the record is still what was read;
- messages are lost, doubled, late, and come again; a worker dies at any point; so does a web process;
- the orchestrator accepts, refuses, is not reached, or its answer is lost, having executed or not;
- its callbacks come at any time once it executes; editors run, retry and cancel, operators settle;
- time passes in whole units, at any point, also between a read and its commit.

Nothing of this is limited in number. Bounded are the epochs of a job, the messages in the queue, and how
many processes of a kind act at once (`scenarios.py`); within these bounds the search is exhaustive.

Three abstractions to know of:

- The check of a worker's deadline and the first byte of its POST are one step here. In a real machine a
  worker can be stopped between the two, for longer than lease and hold together, and no store can see it.
- An index entry and the commit after it travel in one pipeline of one connection. Redis carries that out
  without another client's command between, unless it is longer than Redis reads at once (16 KiB). So they
  are one step here, or the first of them alone where a process dies.
- A commit that was decided on a record which has changed since is taken at once for a try from the start:
  no two records that a job had at different times are equal byte for byte.
"""
