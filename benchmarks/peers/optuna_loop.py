"""Baselines: an Optuna study that trains by `torch.optim.SGD`, one trial at a time."""

import optuna
import torch
from torch import nn
from torch.nn import functional

from benchmarks.peers.program import Job, Outcome, Program

torch.set_num_threads(1)


def search(job: Job) -> Program:
    """As many trials as there are rates and decays; each has its own seed."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    rates, decays = (job.group("hparams")[name] for name in ("rate", "decay"))
    train, valid = (_rows(job, name) for name in ("train", "valid"))
    settings = job.settings

    def objective(trial):
        return _trained(
            trial.suggest_float("rate", 0.001, 1.0, log=True),
            trial.suggest_float("decay", 1e-8, 1.0, log=True),
            trial.number,
            train,
            valid,
            settings,
        )

    def run(trials=len(rates)):
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
        for rate, decay in zip(rates[:trials], decays[:trials], strict=True):
            study.enqueue_trial({"rate": float(rate), "decay": float(decay)})
        study.optimize(objective, n_trials=trials)
        values = [trial.value for trial in study.trials]
        return Outcome(sum(values) / len(values), {})

    run(1)  # what torch loads when it is first used is not the study's memory
    return Program(run, notes=("other batches and initial weights",))


def _trained(rate, decay, seed, train, valid, settings) -> float:
    torch.manual_seed(seed)
    layers = []
    sizes = settings["sizes"]
    for fan_in, fan_out in zip(sizes[:-1], sizes[1:], strict=True):
        layers += [nn.Linear(fan_in, fan_out), nn.Tanh()]
    model = nn.Sequential(*layers[:-1])
    optimizer = torch.optim.SGD(
        model.parameters(), lr=rate, momentum=settings["momentum"], weight_decay=decay
    )
    inputs, labels = train
    for _ in range(settings["steps"]):
        rows = torch.randint(len(labels), (settings["batch_size"],))
        optimizer.zero_grad()
        functional.cross_entropy(model(inputs[rows]), labels[rows]).backward()
        optimizer.step()
    with torch.no_grad():
        return functional.cross_entropy(model(valid[0]), valid[1]).item()


def _rows(job: Job, name: str):
    inputs, labels = job.group(name).values()
    return torch.as_tensor(inputs).float(), torch.as_tensor(labels).long()
