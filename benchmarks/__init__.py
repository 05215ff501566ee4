"""Times noisesteps beside its peers: in one run, in turn, on the same work.

`python -m benchmarks run` measures, prints a table and writes JSON. What is compared,
and how, stands in docs/performance.md.
"""
