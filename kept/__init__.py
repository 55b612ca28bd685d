"""Decisions that the API server keeps in a ConfigMap, and places Pods by, without a call."""
