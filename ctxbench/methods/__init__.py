"""Extension methods: one file each; see base.py for the contract."""
