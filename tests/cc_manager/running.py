"""The whole daemon of cc-manager in a thread, as tests run it."""

import threading
from typing import Self

from cc_manager.settings import Settings
from nodelib.settings import DaemonSettings
from nodelib.wakeups import Wakeups
from tests.cc_manager.simulated import QUICK, CcNode
from tests.fakes.polling import until


class RunningManager:
    """The whole daemon in a thread: rounds, label watch and lock, until it is left."""

    def __init__(self, node: CcNode, *, interval_s: float = 60.0, settings: Settings = QUICK) -> None:
        self.wakeups = Wakeups()
        self._failures: list[Exception] = []
        self._reconciler = node.manager(settings, self.wakeups)
        self._daemon = DaemonSettings(interval_s=interval_s, listen="")
        self._thread = threading.Thread(target=self._run, name="cc-manager")

    def _run(self) -> None:
        try:
            self._reconciler.run(self._daemon)
        except Exception as error:  # noqa: BLE001 - told to the test, which is in another thread
            self._failures.append(error)

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.wakeups.request_stop()
        until(lambda: not self._thread.is_alive())
        assert not self._failures, f"the daemon ended with {self._failures[0]!r}"
