import os
import signal
import threading

import pytest

from bertjax.signals import Abandoned, Interruption


def send(number):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_recorded_and_handlers_are_restored(number):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with Interruption() as interruption:
        assert interruption.name is None
        send(number)
        assert interruption.name == number.name
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_after_a_signal_raises_as_usual(first):
    with Interruption(), pytest.raises(KeyboardInterrupt):
        send(first)
        send(signal.SIGTERM)  # a scheduler may send it more than once
        send(signal.SIGINT)


def test_repeatable_work_is_abandoned_at_once():
    with Interruption() as interruption:
        with pytest.raises(Abandoned), interruption.raise_at_once():
            try:
                send(signal.SIGTERM)
            except Exception:
                pytest.fail("caught by except Exception")
            pytest.fail("continued after the signal")
        with pytest.raises(Abandoned), interruption.raise_at_once():
            pytest.fail("started after the signal")
        send(signal.SIGTERM)  # outside the context, it is recorded


def test_an_ignored_signal_stays_ignored():
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as nohup and a shell's `&` do
    try:
        with Interruption() as interruption:
            send(signal.SIGINT)
            assert interruption.name is None
    finally:
        signal.signal(signal.SIGINT, previous)


def test_other_threads_than_the_main_one_do_nothing():
    failures = []

    def use():
        try:
            with Interruption() as interruption, interruption.raise_at_once():
                pass
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert not failures


def test_other_signals_keep_their_handlers():
    before = signal.getsignal(signal.SIGTERM)
    with Interruption(()):
        assert signal.getsignal(signal.SIGTERM) is before
