"""`make bench`: run every benchmark."""

from . import parallel, steps

for benchmark in (steps, parallel):
    benchmark.main()
    print()
