"""`make bench`: run every benchmark."""

from . import flow, parallel, steps, waits

for benchmark in (steps, parallel, waits, flow):
    benchmark.main()
    print()
