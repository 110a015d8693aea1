"""The flood: many events, many sandboxes, random kills; and counts in must equal counts out.

    python -m tests.flood --events 10000 --sandboxes 100 --store sqlite
    python -m tests.flood --events 10000 --sandboxes 100 --store dynoxide

`app` is the work, `witness` counts its effects outside of the engine, `laptop` and `deployed` are the two places where
it is done, `count` reads the whole store afterwards and says what does not add up.
"""
