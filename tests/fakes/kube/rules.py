"""What the API server refuses, and the Status object that it says so with."""

import re
from dataclasses import dataclass

from tests.fakes.kube.patch import JsonObject, JsonValue, section, text

MAX_NAME_LENGTH = 63
MAX_PREFIX_LENGTH = 253
MAX_ANNOTATIONS_BYTES = 256 * 1024
MAX_EVENT_MESSAGE_BYTES = 1024

# What apimachinery's IsQualifiedName, IsValidLabelValue and IsDNS1123Subdomain accept.
_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")

# A field that the type does not have is dropped from what a client sends (field pruning).
_METADATA_FIELDS = frozenset(
    {
        "name",
        "generateName",
        "namespace",
        "uid",
        "resourceVersion",
        "generation",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "labels",
        "annotations",
        "ownerReferences",
        "finalizers",
        "managedFields",
    }
)
_NODE_FIELDS = frozenset({"apiVersion", "kind", "metadata", "spec", "status"})

_REASONS = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    405: "MethodNotAllowed",
    409: "Conflict",
    410: "Expired",
    415: "UnsupportedMediaType",
    422: "Invalid",
    429: "TooManyRequests",
    500: "InternalError",
    503: "ServiceUnavailable",
    504: "Timeout",
}


class ApiError(Exception):
    """An answer other than success, as a Status object (apimachinery, meta/v1 Status)."""

    def __init__(self, code: int, message: str, *, reason: str = "", details: JsonObject | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.status: JsonObject = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": message,
            "reason": reason or _REASONS.get(code, "Unknown"),
            **({"details": details} if details else {}),
            "code": code,
        }


@dataclass(frozen=True, slots=True)
class Problem:
    """One field that a valid object would not have like this."""

    field: str
    message: str


def not_found(resource: str, name: str) -> ApiError:
    return ApiError(404, f'{resource} "{name}" not found', details={"name": name, "kind": resource})


def already_exists(resource: str, name: str) -> ApiError:
    return ApiError(
        409,
        f'{resource} "{name}" already exists',
        reason="AlreadyExists",
        details={"name": name, "kind": resource},
    )


def conflict(resource: str, name: str, why: str) -> ApiError:
    return ApiError(
        409,
        f'Operation cannot be fulfilled on {resource} "{name}": {why}',
        details={"name": name, "kind": resource},
    )


def invalid(kind: str, name: str, problems: list[Problem]) -> ApiError:
    causes: list[JsonValue] = [
        {"reason": "FieldValueInvalid", "message": problem.message, "field": problem.field} for problem in problems
    ]
    listed = ", ".join(f"{problem.field}: {problem.message}" for problem in problems)
    return ApiError(
        422,
        f'{kind} "{name}" is invalid: {listed}',
        details={"name": name, "kind": kind, "causes": causes},
    )


def admit_node(current: JsonObject, wanted: JsonObject) -> JsonObject:
    """The node to store when a client asks for `wanted` in place of `current`."""
    name = text(current, "metadata", "name")
    metadata = section(wanted, "metadata")
    for field in ("apiVersion", "kind"):
        if wanted.get(field) != current.get(field):
            raise ApiError(400, f"{field} {wanted.get(field)!r} is not that of the request's path")
    if metadata.get("name") != name:
        raise ApiError(400, f"the object's name is not the name in the URL ({name})")
    _refuse_another_state(name, section(current, "metadata"), metadata)
    # Go decodes null into an empty string, so a JSON patch with a null value stores an empty label.
    labels = _null_as_empty(metadata.get("labels"))
    annotations = _null_as_empty(metadata.get("annotations"))
    if problems := label_problems(labels) + annotation_problems(annotations):
        raise invalid("Node", name, problems)
    kept = {key: value for key, value in metadata.items() if key in _METADATA_FIELDS}
    for key, value in (("labels", labels), ("annotations", annotations)):
        kept.pop(key, None)
        if value:  # empty maps are left out of the JSON (omitempty)
            kept[key] = value
    for key in ("resourceVersion", "uid", "creationTimestamp"):
        kept[key] = section(current, "metadata")[key]
    admitted = {key: value for key, value in wanted.items() if key in _NODE_FIELDS}
    # A node's status changes only through its status subresource.
    return admitted | {"metadata": kept, "status": current.get("status")}


def _refuse_another_state(name: str, current: JsonObject, wanted: JsonObject) -> None:
    for field in ("resourceVersion", "uid", "creationTimestamp"):
        if not isinstance(wanted.get(field, ""), str):
            raise invalid("Node", name, [Problem(f"metadata.{field}", "must be a string")])
    if wanted.get("resourceVersion", "") not in ("", current["resourceVersion"]):
        raise conflict("nodes", name, "the object has been modified; read it again and retry")
    if wanted.get("uid", "") not in ("", current["uid"]):
        raise conflict("nodes", name, f"the uid is {current['uid']}, not {wanted['uid']}")
    if wanted.get("creationTimestamp", "") not in ("", current["creationTimestamp"]):
        raise invalid("Node", name, [Problem("metadata.creationTimestamp", "field is immutable")])


def _null_as_empty(entries: JsonValue) -> JsonValue:
    if not isinstance(entries, dict):
        return entries
    return {key: "" if value is None else value for key, value in entries.items()}


def label_problems(labels: JsonValue) -> list[Problem]:
    field = "metadata.labels"
    problems = _map_problems(field, labels)
    for value in section(labels).values():
        if isinstance(value, str) and value and not _is_name(value):
            problems.append(Problem(field, f'"{value}" is not a valid label value'))
    return problems


def annotation_problems(annotations: JsonValue) -> list[Problem]:
    field = "metadata.annotations"
    problems = _map_problems(field, annotations)
    size = sum(
        len(key.encode()) + len(value.encode()) for key, value in section(annotations).items() if isinstance(value, str)
    )
    if size > MAX_ANNOTATIONS_BYTES:
        problems.append(Problem(field, f"may not be more than {MAX_ANNOTATIONS_BYTES} bytes"))
    return problems


def _map_problems(field: str, entries: JsonValue) -> list[Problem]:
    if entries is None:
        return []
    if not isinstance(entries, dict):
        return [Problem(field, "must be a map of strings")]
    problems = []
    for key, value in entries.items():
        # Annotation keys are put in lower case before the check, which only loosens the prefix.
        if not _is_qualified_name(key if field == "metadata.labels" else key.lower()):
            problems.append(Problem(field, f'"{key}" is not a qualified name'))
        if not isinstance(value, str):
            problems.append(Problem(field, f'the value of "{key}" must be a string'))
    return problems


def _is_name(value: str) -> bool:
    return len(value) <= MAX_NAME_LENGTH and _NAME.fullmatch(value) is not None


def _is_subdomain(value: str) -> bool:
    return len(value) <= MAX_PREFIX_LENGTH and _SUBDOMAIN.fullmatch(value) is not None


def _is_qualified_name(key: str) -> bool:
    prefix, slash, name = key.rpartition("/")
    return _is_name(name) and (not slash or _is_subdomain(prefix))


def event_problems(event: JsonObject) -> list[Problem]:
    """What core v1 refuses in an Event (kubernetes, pkg/apis/core/validation/events.go)."""
    problems = []
    namespace = text(event, "metadata", "namespace")
    about = text(event, "involvedObject", "namespace")
    has_time = bool(event.get("eventTime"))
    # Events on objects without a namespace, such as nodes, belong in "default".
    allowed = {"default", "kube-system"} if has_time else {"default"}
    if (namespace not in allowed) if not about else (not has_time and about != namespace):
        problems.append(Problem("involvedObject.namespace", "does not match event.namespace"))
    if not _is_subdomain(text(event, "metadata", "name")):
        problems.append(Problem("metadata.name", "must be a DNS subdomain"))
    if has_time:
        problems += [
            Problem(field, "is required, at most 128 bytes, where eventTime is set")
            for field in ("reportingComponent", "reportingInstance", "action", "reason")
            if not 0 < len(text(event, field).encode()) <= 128
        ]
        if len(text(event, "message").encode()) > MAX_EVENT_MESSAGE_BYTES:
            problems.append(Problem("message", f"at most {MAX_EVENT_MESSAGE_BYTES} bytes"))
    return problems
