import json

import numpy as np

from bertjax.training import throughput


def fake_clock(monkeypatch, *times):
    times = iter(times)
    monkeypatch.setattr(throughput.time, "perf_counter", lambda: next(times))


def batch(valid, tokens):
    mask = np.arange(8) < np.array(tokens)[:, None]
    return {"valid": np.array(valid), "attention_mask": mask}


def test_means_and_rates_by_hand(monkeypatch):
    # Created at 0, window opened at 1; paused from 4 to 10; first step done at 2; read at 11; again at 16.
    fake_clock(monkeypatch, 0.0, 1.0, 2.0, 4.0, 10.0, 11.0, 11.0, 16.0, 16.0, 20.0)
    timer = throughput.Meter()
    timer.count([batch([True, True], [3, 5])], {"loss": np.float32(1)})
    with timer.paused():
        pass
    timer.count([batch([True, False], [4, 1])], {"loss": np.float32(3)})
    values, timing = timer.read()
    assert values == {"loss": 2.0}
    assert timing == {"step_seconds": 2.0, "examples_per_second": 3 / 4}
    timer.count([batch([True, True], [2, 2])], {"loss": np.float32(5)})
    values, timing = timer.read()
    assert values == {"loss": 5.0}
    assert timing == {"step_seconds": 5.0, "examples_per_second": 2 / 5}
    assert timer.summary() == {
        "seconds": 20.0,
        "seconds_to_first_step": 2.0,
        "step_seconds_median": 3.5,
        "examples_per_second": 5 / 9,
        "real_tokens_per_second": 16 / 9,
    }


def test_a_resumed_run_counts_its_earlier_seconds(monkeypatch):
    fake_clock(monkeypatch, 0.0, 1.0, 2.0, 5.0)
    timer = throughput.Meter()
    timer.resume(100.0, [])
    assert timer.seconds == 105.0


def test_a_resumed_window_has_its_earlier_steps_means_and_this_calls_rates(monkeypatch):
    fake_clock(monkeypatch, 0.0, 1.0, 2.0)
    earlier = throughput.Meter()
    earlier.count([batch([True], [3])], {"loss": np.float32(0.1)})
    window = json.loads(json.dumps(earlier.window()))
    # Created at 0, resumed at 10; first step done at 12; read at 14.
    fake_clock(monkeypatch, 0.0, 1.0, 10.0, 12.0, 14.0, 14.0)
    timer = throughput.Meter()
    timer.resume(5.0, window)
    timer.count([batch([True, True], [3, 5])], {"loss": np.float32(0.3)})
    values, timing = timer.read()
    assert values == {"loss": (float(np.float32(0.1)) + float(np.float32(0.3))) / 2}
    assert timing == {"step_seconds": 4.0, "examples_per_second": 0.5}


def test_steps_left_out_enter_no_mean(monkeypatch):
    fake_clock(monkeypatch, *map(float, range(20)))
    timer = throughput.Meter()
    for loss, skipped in ((1, 0), (np.nan, 1), (3, 0)):
        timer.count([batch([True], [3])], {"loss": np.float32(loss), "skipped": np.float32(skipped)})
    assert timer.read()[0] == {"loss": 2.0, "skipped": 1.0}
    timer.count([batch([True], [3])], {"loss": np.float32(1), "skipped": np.float32(0)})
    assert timer.read()[0] == {"loss": 1.0}


def test_a_call_without_a_step_has_no_rates(monkeypatch):
    fake_clock(monkeypatch, 0.0, 1.0, 2.0)
    assert throughput.Meter().summary() == {
        "seconds": 2.0,
        "seconds_to_first_step": None,
        "step_seconds_median": None,
        "examples_per_second": None,
        "real_tokens_per_second": None,
    }


def test_work_before_the_first_step_counts_in_no_rate(monkeypatch):
    # Created at 0, window opened at 1 and, after a minute's preparations, at 61; first step done at 63; read at 65.
    fake_clock(monkeypatch, 0.0, 1.0, 61.0, 63.0, 65.0, 65.0)
    timer = throughput.Meter()
    timer.open_window()
    timer.count([batch([True, True], [3, 5])], {"loss": np.float32(1)})
    _, timing = timer.read()
    assert timing == {"step_seconds": 4.0, "examples_per_second": 0.5}
