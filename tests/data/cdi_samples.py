"""The CDI specs beside this file, good and bad."""

from pathlib import Path

FOLDER = Path(__file__).parent / "cdi"
GOOD = sorted((FOLDER / "good").iterdir())
BAD = sorted((FOLDER / "bad").iterdir())
BEYOND_A_SCHEMA = {
    "annotations-in-0.5.0.yaml",
    "digit-in-0.4.0.yaml",
    "dotted-class-in-0.5.0.yaml",
    "gids-in-0.6.0.yaml",
    "host-path-in-0.4.0.yaml",
    "key-twice.yaml",
    "merge-key.yaml",
    "mount-type-in-0.3.0.yaml",
    "name-twice.yaml",
    "net-devices-in-1.0.0.yaml",
}
"""What no JSON schema can say: that names differ, and which version brought what."""
