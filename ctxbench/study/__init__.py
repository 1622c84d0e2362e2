"""The protocol as data (rows x columns) and the runner that survives interruption."""
