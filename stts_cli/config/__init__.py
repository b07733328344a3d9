"""Presets, suites and the sizes of architectures, read from YAML files. No torch."""
