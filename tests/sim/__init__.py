"""A simulator that tries to break Onward.

One thread, a virtual clock, one seed. What runs in it is what is deployed: the door of the Lambda handler, the
engine, the DynamoDB store with its retries and its tokens, the wakes. What is simulated is the world behind the wire:
Lambda with its sandboxes and its queue of events, DynamoDB, SQS, S3, EventBridge, and time; and everything of it
fails, in every way that AWS says it may, as the seed decides.

    chance.py      what the seed decides, each fault with a label, so that faults can be taken away one by one
    world.py       time, and the tasks that stand in it
    table.py       DynamoDB
    cloud.py       the other services, and what happens to a request on its way
    function.py    Lambda
    witness.py     what the steps did to the world outside
    programs.py    generated workflows, and a model in plain Python that says what they come to
    invariants.py  what must be true, numbered, asserted after every tick
    whys.py        what a run is said to wait for
    story.py       one seed, from its events to its end
    stage.py       a calm world in which one task is held at one of its requests
    zombies.py     an invocation that comes back when its run went on without it
    pairs.py       what may come of two things that happen to one run at the same time: a table
    ring.py        where they happen
    shrink.py      makes a failing story small
    __main__.py    `make sim`
"""
