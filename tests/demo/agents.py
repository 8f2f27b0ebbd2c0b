"""The four agents as threads of the demo: the same classes and the same `run` that their command lines use."""

import threading
from collections.abc import Callable

from cc_manager.assemble import Cluster, assemble
from cc_manager.cluster.kube_access import open_kube
from cc_manager.gpu.access import Access
from cc_manager.reconcile import Reconciler
from cc_manager.setter import ModeSetter
from cc_manager.settings import Settings as CcSettings
from device_plugin.reconcile import Plugin
from device_plugin.settings import CdiMode
from device_plugin.settings import Settings as PluginSettings
from kata_manager.reconcile import SpecKeeper
from kata_manager.settings import Settings as KataSettings
from nodelib.settings import DaemonSettings
from nodelib.wakeups import Wakeups
from tests.fakes.node import NODE_NAME, SimulatedNode
from vfio_manager.reconcile import Binder
from vfio_manager.settings import Settings as VfioSettings
from vfio_manager.settings import SwitchPolicy

DAEMON = DaemonSettings(interval_s=5.0, listen="")
_STOP_S = 6.0
_ROUND_S = 15.0


class RunningAgents:
    """Starts agents on a simulated node, each in a thread, and stops them all as SIGTERM would."""

    def __init__(self, simulated: SimulatedNode, daemon: DaemonSettings = DAEMON) -> None:
        self._simulated = simulated
        self._daemon = daemon
        self._running: list[tuple[str, Wakeups, threading.Thread]] = []

    def vfio_manager(self, wakeups: Wakeups | None = None) -> Binder:
        return Binder(self._simulated.node, VfioSettings(nvswitches=SwitchPolicy.ALWAYS), wakeups)

    def cc_manager(self, wakeups: Wakeups | None = None) -> ModeSetter:
        access = Access(self._simulated.node, self._simulated.map_words)
        return ModeSetter(self._simulated.node, access, CcSettings(), wakeups)

    def cc_reconciler(self, wakeups: Wakeups | None = None) -> Reconciler:
        return assemble(self.cc_manager(wakeups), Cluster(open_kube(str(self._simulated.kubeconfig)), NODE_NAME))

    def kata_manager(self, wakeups: Wakeups | None = None) -> SpecKeeper:
        return SpecKeeper(self._simulated.node, KataSettings(), wakeups)

    def device_plugin(self, wakeups: Wakeups | None = None) -> Plugin:
        return Plugin(self._simulated.node, PluginSettings(cdi=CdiMode.REQUIRE), wakeups)

    def start_vfio_manager(self) -> Binder:
        wakeups = Wakeups()
        binder = self.vfio_manager(wakeups)
        self._start("vfio-manager", wakeups, lambda: binder.run(self._daemon))
        return binder

    def start_cc_manager(self) -> None:
        wakeups = Wakeups()
        reconciler = self.cc_reconciler(wakeups)
        self._start("cc-manager", wakeups, lambda: reconciler.run(self._daemon))

    def start_kata_manager(self) -> SpecKeeper:
        wakeups = Wakeups()
        keeper = self.kata_manager(wakeups)
        self._start("kata-manager", wakeups, lambda: keeper.run(self._daemon))
        return keeper

    def start_device_plugin(self) -> Plugin:
        wakeups = Wakeups()
        plugin = self.device_plugin(wakeups)
        self._start("device-plugin", wakeups, lambda: plugin.run(self._daemon))
        return plugin

    def stop(self) -> list[str]:
        """Stop all; the names of those that did not end in time."""
        for _, wakeups, _ in self._running:
            wakeups.request_stop()
        for _, _, thread in self._running:
            thread.join(_STOP_S)
        late = [name for name, _, thread in self._running if thread.is_alive()]
        self._outlive_rounds()
        self._running.clear()
        return late

    def _outlive_rounds(self) -> None:
        """A real agent's process ends around a round that still waits for firmware; a thread must be waited for."""
        for thread in threading.enumerate():
            if thread.name in ("rounds", "device"):
                thread.join(_ROUND_S)

    def _start(self, name: str, wakeups: Wakeups, run: Callable[[], None]) -> None:
        thread = threading.Thread(target=run, name=name, daemon=True)
        thread.start()
        self._running.append((name, wakeups, thread))
