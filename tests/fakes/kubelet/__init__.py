"""A simulated kubelet: real gRPC on real sockets, as device plugins and the Kata runtime meet it."""

from tests.fakes.kubelet.server import Kubelet

__all__ = ["Kubelet"]
