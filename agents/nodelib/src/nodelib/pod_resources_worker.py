"""The process that asks the kubelet once, for `pod_resources.PodResourcesChild`: grpc's memory goes with it.

    python -m nodelib.pod_resources_worker SOCKET TIMEOUT_S list
    python -m nodelib.pod_resources_worker SOCKET TIMEOUT_S get NAMESPACE POD

It prints one line of JSON, an error's as well, and exits with 0; without a line something is wrong with the process.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from nodelib.lean_grpc import import_grpc
from nodelib.pod_resources import PodDevices, PodResourcesError, to_json


def main(arguments: Sequence[str]) -> int:
    """Ask what *arguments* say and print the answer."""
    asked = _parser().parse_args(arguments)
    sys.stdout.write(to_json(_answer(asked)) + "\n")
    return 0


def _answer(asked: argparse.Namespace) -> tuple[PodDevices, ...] | PodResourcesError:
    import_grpc()
    from nodelib.pod_resources_client import PodResourcesClient

    client = PodResourcesClient(asked.socket, asked.timeout_s)
    try:
        return client.list() if asked.question == "list" else client.get(asked.namespace, asked.pod)
    except PodResourcesError as error:
        return error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Ask the kubelet which pods have which devices.")
    parser.add_argument("socket", type=Path)
    parser.add_argument("timeout_s", type=float)
    questions = parser.add_subparsers(dest="question", required=True)
    questions.add_parser("list")
    get = questions.add_parser("get")
    get.add_argument("namespace")
    get.add_argument("pod")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
