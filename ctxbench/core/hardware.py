"""What devices can do, for estimates; published figures and stated assumptions."""

PEAK_TERAFLOPS = {"A100": 312, "H100": 989, "H200": 989, "GH200": 989}
"""Dense bfloat16, from NVIDIA's data sheets."""
BANDWIDTH = {"A100": 2.0, "H100": 3.35, "H200": 4.8, "GH200": 4.0}
"""Of device memory, TB/s, from the same (80 GB SXM; GH200 with HBM3)."""
CORE_GIGAFLOPS = 60
"""Assumed of one CPU core on a model of the bundled size; measured: 45 to 90."""
ASSUMED_MFU = 0.4
"""Share of the peak that is assumed to be reached."""
