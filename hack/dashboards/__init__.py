"""Grafana dashboards of what llmops measures: written as lists of questions, printed as Grafana's JSON."""
