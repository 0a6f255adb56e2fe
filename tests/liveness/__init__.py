"""The liveness machine: whatever happens to five nodes, in the end each holds what the rule says, or says why not.

A run follows from its seed. `plan` draws the nodes and a list of steps; `world` runs the nodes, as real processes on
both stores; `actions` carries the steps out; `ledger` remembers what was acknowledged and what was broken on purpose;
`reader` downloads all the while. When the steps are done, `world` repairs what stands in the way (nodes that are down,
proxies that lie, full disks, a network in two parts), and `oracle` says what is still wrong: nothing may be, after two
reconcile intervals and the time that the bytes and this machine take (`rounds.ALLOWANCE_S`).

What the nodes do is up to the scheduler, so a seed repeats the steps and not the run: a failure is repeated by running
its seed several times, and is made smaller by leaving steps away.

    ODS_LIVENESS_RUNS=200                  the long mode; the seeds are printed
    ODS_LIVENESS_SEED=7                    this seed, or from this one on
    ODS_LIVENESS_STEPS=12                  only the first steps
    python -m tests.liveness 7 --shrink    the shortest list of first steps that still fails
"""
