"""The profiler of a run that nobody profiles."""

import lightning as L
from lightning.pytorch.profilers import PassThroughProfiler

from callbacks.unprofiled import Unprofiled
from tests.toy import ToyData, ToyModule, toy_trainer


def test_a_step_enters_contexts_that_do_nothing():
    entered = []

    class Counted(Unprofiled):
        def profile(self, action_name):
            entered.append(action_name)
            return super().profile(action_name)

        def start(self, action_name):
            assert action_name not in entered, "a context called the profiler back"

    trainer = toy_trainer([L.Callback()], max_epochs=1, profiler=Counted())
    trainer.fit(ToyModule(), ToyData())
    steps = trainer.global_step
    assert sum("training_step" in name for name in entered) == steps
    assert len(entered) > 15 * steps, "Lightning enters few: the class saves nothing any more"


def test_lightning_takes_it_for_no_profiler():
    assert isinstance(Unprofiled(), PassThroughProfiler)
