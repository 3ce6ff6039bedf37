"""The project's own tasks, one file each; importing this package registers them."""

from experiments.tasks import catch as catch
from experiments.tasks import characters as characters
from experiments.tasks import digits as digits
from experiments.tasks import distillation as distillation
from experiments.tasks import few_shot as few_shot
from experiments.tasks import forecasting as forecasting
from experiments.tasks import functions as functions
from experiments.tasks import hyper_cleaning as hyper_cleaning
from experiments.tasks import images as images
from experiments.tasks import linear as linear
from experiments.tasks import sentiment as sentiment
from experiments.tasks import speech as speech
from experiments.tasks import transfer as transfer
