"""A part of the corpus as one deployed app, in a hurry: a run to which nothing happened is found after `HORIZON_MS`.

Left out are the cases that wait for minutes.
"""

import os

from onward import App
from tests.corpus import CASES, QUICK, Effects

from .app import note

CHOSEN = """one_step three_in_sequence state_is_kept_between_steps a_step_that_fails_twice non_retriable_is_caught
out_of_attempts_and_not_caught sync_parallel sync_branches_of_two_steps async_sequence async_gather
async_branches_of_two_steps task_group a_wide_gather wide_branches_of_two_steps the_first_of_two two_of_many
a_repeated_name a_step_that_may_run_only_once only_once_in_parallel rich_values filled_invocations""".split()  # noqa: SIM905
CASES_CHOSEN = [case for case in CASES if case.name in CHOSEN]


class Noted(Effects):
    """Effects that are counted outside of this process."""

    def do(self, name, result=None):
        return note(result)


app = App("chaos")
for case in CASES_CHOSEN:
    for workflow in case.build(Noted()):
        fill = "fill" if workflow.fill else 1
        app.workflow(on=f"story/{case.name}", name=case.name, retries=QUICK, steps_per_invocation=fill)(workflow.fn)

if "HORIZON_MS" in os.environ:
    handler = app.handler()
    handler.__self__.engine.horizon_ms = int(os.environ["HORIZON_MS"])
