"""What monitoring systems read: metrics for Prometheus, spans for OpenTelemetry."""
