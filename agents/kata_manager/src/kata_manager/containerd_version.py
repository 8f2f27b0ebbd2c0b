"""Which containerd runs: its answer over its own socket, asked without its protocol's generated code."""

from pathlib import Path

METHOD = "/containerd.services.version.v1.Version/Version"
"""containerd, api/services/version/v1/version.proto: an empty message asks; field 1 of the answer is the version."""
_TIMEOUT_S = 2.0
_FIELD_1_TEXT = 0x0A


def ask_version(socket: Path) -> str:
    """Its version as it says it (`1.7.24~ds1`); empty if nobody answers."""
    import grpc  # for `doctor` alone

    try:
        if not socket.is_socket():
            return ""
        with grpc.insecure_channel(f"unix:{socket}", options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            ask: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(METHOD)
            answer = ask(b"", timeout=_TIMEOUT_S)
    except (OSError, grpc.RpcError):
        return ""
    return _first_text(answer)


def _first_text(message: bytes) -> str:
    """Field 1 of a protobuf message, if it comes first and is shorter than 128 bytes, as a version is."""
    if len(message) < 2 or message[0] != _FIELD_1_TEXT or message[1] > 127:
        return ""
    return message[2 : 2 + message[1]].decode(errors="replace")
