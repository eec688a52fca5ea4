"""When the closed division evaluates, by the rules and as published logs do."""

import pytest

from scoring.rules.rounds import load_round
from scoring.rules.schedule import schedule_fault
from scoring.runs.log_reader import read_log

RULES = load_round("v1.0")


@pytest.mark.parametrize(
    ("epochs", "words"),
    [([40, 50], None), ([40, 45, 50], None), ([50], "epoch 40"), ([40, 50, 60], "epoch 55")],
)
def test_ssd_schedule(tmp_path, make, epochs, words):
    lines = make.ssd(evals=tuple((e, 0.1) for e in epochs))
    fault = schedule_fault(read_log(make.write(tmp_path / "l", lines)), RULES.benchmarks["ssd"])
    assert (fault is None) if words is None else words in fault


@pytest.mark.parametrize(
    ("benchmark", "gbs", "good", "bad"),
    [
        ("resnet", 3264, [3, 7, 11], [3, 8, 11]),
        ("unet3d", 56, [1000, 1020, 1040], [1000, 1040]),
        ("unet3d", 80, [700, 714], [701, 715]),
        ("bert", 448, [150000, 300160], [150000, 350000]),
        ("dlrm", 55296, [1.05, 1.1, 1.15], [1.05, 1.15]),
        ("dlrm", 55296, [0.05, 0.1, 0.15], [1.85, 1.9]),
    ],
)
def test_schedules_of_the_others(tmp_path, make, benchmark, gbs, good, bad):
    for epochs, fine in ((good, True), (bad, False)):
        lines = make.ssd(evals=tuple((e, 0.1) for e in epochs), gbs=gbs)
        log = read_log(make.write(tmp_path / "l", lines))
        assert (schedule_fault(log, RULES.benchmarks[benchmark]) is None) == fine


def test_published_logs_keep_the_schedule(published):
    names = ["resnet", "ssd", "maskrcnn", "dlrm", "rnnt", "bert"]
    for name in names:
        for path in published.glob(f"*/results/*/{name}/*.txt"):
            assert schedule_fault(read_log(path), RULES.benchmarks[name]) is None, path


def lora_log(tmp_path, make, counts, batch=8):
    lines = [make.line("global_batch_size", batch)]
    lines += [make.line("eval_accuracy", 0.95, samples_count=count) for count in counts]
    return read_log(make.write(tmp_path / "result_0.txt", lines))


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        # floor(0.125 x 8 + 2) = 3 evaluations are skipped.
        ([1536, 1920, 2304], None),
        ([384, 768, 1152, 1536], None),
        ([1560, 1944], None),
        ([1920, 2304], "first evaluation at 1920; due at 1536"),
        ([1536, 2304], "no evaluation between 1536 and 2304 samples"),
    ],
)
def test_the_first_evaluations_of_lora_may_be_skipped(tmp_path, make, counts, words):
    bench = load_round("v4.0").benchmarks["llama2_70b_lora"]
    fault = schedule_fault(lora_log(tmp_path, make, counts), bench)
    assert (fault is None) if words is None else (words in fault)


@pytest.mark.parametrize(
    ("batch", "counts", "fine"),
    [
        # NVIDIA's v2.0 and HPE's v2.1 logs: the loss scaler skips up to 11 steps at first.
        (3072, [190464, 365568, 540672], True),
        (6144, [227328, 399360], True),
        (448, [154560, 304640], True),
        # Dell's v2.1 logs keep the interval of another batch.
        (1536, [175104, 350208, 525312], False),
        (3072, [215040, 390144], False),
    ],
)
def test_only_the_first_evaluation_of_bert_is_late_by_skipped_steps(
    tmp_path, make, batch, counts, fine
):
    lines = make.ssd(evals=tuple((count, 0.1) for count in counts), gbs=batch)
    log = read_log(make.write(tmp_path / "l", lines))
    assert (schedule_fault(log, load_round("v2.1").benchmarks["bert"]) is None) == fine


@pytest.mark.parametrize(
    ("logged", "epochs", "words"),
    [
        # Published in v2.0: batches of 48 are padded to 192 samples, the schedule is that of 168.
        (192, [1000, 1020], "due at 875 (an epoch of batches of 48 has 192 samples)"),
        (None, [1000, 1020], "due at 875 (an epoch of batches of 48 has 192 samples)"),
        (192, [875, 893], None),
        # The reference drops the last batch.
        (144, [1167, 1191], None),
        (144, [1167, 1192], "between 1167 and 1192"),
        (1, [10000, 10020], "due at 875"),
    ],
)
def test_unet3d_evaluates_by_the_samples_of_its_own_epochs(tmp_path, make, logged, epochs, words):
    facts = {} if logged is None else {"samples_per_epoch": logged}
    lines = make.ssd(evals=tuple((epoch, 0.1) for epoch in epochs), gbs=48, **facts)
    log = read_log(make.write(tmp_path / "l", lines))
    fault = schedule_fault(log, load_round("v2.0").benchmarks["unet3d"])
    assert (fault is None) if words is None else words in fault
