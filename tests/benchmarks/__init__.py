"""Benchmarks against what people would use instead. `make bench`, or `python -m tests.benchmarks --help`.

Our figure and the rival's come from the same run, in turn, medians of three, as ratios: absolute times differ from
machine to machine and from hour to hour. Before each timed run memory is warmed by writing and deleting a file of the
same size, for every competitor alike: a virtual machine may have to be given its memory first.
"""
