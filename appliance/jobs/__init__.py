"""Doing things later, for certain.

A job is a row of the metadata store (`domain.job.Job`). Whoever wants work done writes the row, in the same
batch as the change that calls for it; this package runs it, however often the process dies in between:

    store.enqueue -> claim (lease, fencing token) -> APScheduler executor -> settle -> done, retry or failed
                       ^ taken again when the lease ends without a settlement

    new         a job before it is queued
    runner      one lane per queue claims rows into free slots; leases are renewed; endings are recorded
    lane        when a queue is asked for more rows
    engine      APScheduler: the executors that run rows, the triggers that fire timed duties
    run         one claimed row while it runs, and what its end means
    supervisor  background tasks of the process: restarted, counted and shown when they fail
    context     what the running function sees: stop signal, bridge to the event loop

Functions of the queues "transfer", "small", "hash" and "delivery" run in threads, those of "duty", "release" and
"default" are coroutines on the event loop. "duty" is for what keeps the promises of a node, the reconciler for example:
no other work holds it up. "release" is for questions to nodes that may be silent, a few at a time. "small" is for jobs
that cost more in messages and writes than in work: its function takes several at once. Any function may be run again
after a crash, also when its first run had nearly finished: it must be written so that twice is once. APScheduler is
imported here and nowhere else; metrics and health read this package through callbacks, since they live above it.
"""
