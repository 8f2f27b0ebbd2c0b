"""Metrics as plain values."""

from nodelib.metrics import MetricType, counter, gauge


def test_a_metric_without_labels_has_one_value() -> None:
    metric = gauge("agent_ready", "1 if ready.", 1)
    assert (metric.name, metric.help, metric.type, metric.labels) == (
        "agent_ready",
        "1 if ready.",
        MetricType.GAUGE,
        (),
    )
    assert metric.values == {(): 1}
    assert counter("agent_rounds", "Rounds.", 3).type is MetricType.COUNTER
