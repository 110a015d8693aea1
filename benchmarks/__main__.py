"""`make bench`: run every benchmark."""

from . import bill, flow, parallel, steps, waits

for benchmark in (steps, parallel, waits, flow, bill):
    benchmark.main()
    print()
