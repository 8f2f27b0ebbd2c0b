"""`make bench`: measures what the design sets targets for. Nothing here is a test, and nothing asserts a time."""
