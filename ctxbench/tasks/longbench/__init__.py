"""LongBench: 21 data sets, two scorings, middle truncation (see README.md)."""
