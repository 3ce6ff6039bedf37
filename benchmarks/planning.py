"""`plan`: what `hypergrad.plan` picks, against the best measured within its budget.

Every candidate of a work that is not hopeless by its flops is measured in the same
rounds. Then, for each budget at which the choice can change (the bytes of each
candidate), the pick's time is held against the least time of all that fit.
"""

import argparse
import dataclasses
import importlib

import hypergrad
from benchmarks.programs import of_estimator
from benchmarks.race import race
from benchmarks.works.base import FORWARD, Work
from hypergrad.estimators import Value
from hypergrad.plan import Plan, exact_estimators

HOPELESS = 12.0
"""Candidates of more flops than so many trainings are not run."""


def measure(options: argparse.Namespace) -> dict:
    """The record of the candidates' race, and a table of picks by budget."""
    module = importlib.import_module(f"benchmarks.works.{options.of}")
    work = module.make(options.steps, options.smallest)
    plan = planned(work, options)
    programs = {FORWARD: of_estimator(work.problem, Value(), work.hparams, work.key)}
    least = min(plan.table, key=lambda row: row.bytes)
    costs = [row for row in plan.table if row.relative <= HOPELESS or row is least]
    for row in costs:
        programs[str(row.estimator)] = of_estimator(
            work.problem, row.estimator, work.hparams, work.key
        )
    raced = dataclasses.replace(
        work,
        name=f"plan of {work.name}",
        programs=programs,
        reference=str(costs[0].estimator),
        peers={},
        complete=lambda record, hypergrads: record,
    )
    record = race(raced, options.rounds, limit=options.memory)
    table, worst = picks(plan, costs, record)
    return {**record, "worst_pick": worst, "tables": [table]}


def planned(work: Work, options: argparse.Namespace) -> Plan:
    """The plan without a limit; other budgets follow from its figures."""
    if work.problem is None:
        raise ValueError(f"the work {work.name} has no problem to plan for")
    candidates = exact_estimators(work.hparams)
    if options.only is not None:
        candidates = [
            c for c in candidates if any(part in str(c) for part in options.only)
        ]
    return hypergrad.plan(work.problem, work.hparams, 2**62, candidates=candidates)


def picks(plan: Plan, costs, record: dict) -> tuple[dict, float]:
    """A line a budget, and the worst ratio of the pick to the best that fits."""
    seconds = {
        row["name"]: row["cpu_median"]
        for row in record["contenders"]
        if "cpu_median" in row
    }
    measured = [row for row in costs if str(row.estimator) in seconds]
    lines, worst = [], 1.0
    for budget in sorted({row.bytes for row in measured}):
        fitting = [str(row.estimator) for row in measured if row.bytes <= budget]
        best = min(fitting, key=seconds.__getitem__)
        pick = str(plan.within(budget).estimator)
        if pick not in seconds:
            lines.append([str(budget), pick, "not measured", best, ""])
            continue
        ratio = seconds[pick] / seconds[best]
        worst = max(worst, ratio)
        lines.append([str(budget), pick, f"{seconds[pick]:.3g}", best, f"{ratio:.3f}"])
    header = ["budget, bytes", "picked", "CPU s", "best that fits", "picked / best"]
    title = f"What plan picks within each budget; at worst {worst:.3f} of the best"
    return {"title": title, "header": header, "rows": lines}, worst
