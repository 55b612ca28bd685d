"""Running Pods follow their database: `python3 -m relocation`."""
