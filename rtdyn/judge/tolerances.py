"""The tolerances that a new baseline starts with, each with its reason.

Measured on the bundled suite at steps 0, 512 and 4000, against one run: with one thread instead of two, no number
differed. Others were run with another --memory-gib, with AVX2 or plain vector instructions in place of AVX-512, and
with float32 in place of bfloat16 products. An influence moved by up to 6e-5 of itself, a fit by 1e-4, an interval's end
by 1.2e-4, a likelihood ratio by 5e-4. Counts, ranks and permutation p-values did not move. 3e-3 leaves six times the
largest and stays below the 1 % that a check is for. It is wider than what --tolerance allows where influences are above
7e-3 nats.
"""

from __future__ import annotations

from rtdyn.judge.baseline import Rule

DEFAULT_RULES = (
    Rule(
        "ablation/error_bound_max/*",
        "close",
        ("value",),
        relative=1.0,
        why="a bound on round-off, not a result: it moved by 30 % between float32 and bfloat16 products",
    ),
    Rule(
        "ablation/refined_share",
        "close",
        ("value",),
        relative=1.0,
        absolute=0.01,
        why="how much work the bounds asked for, not a result: it moved by 50 % between the two",
    ),
    Rule("*", "exact", ("n",), why="a count of what was measured"),
    Rule(
        "regimes/*_over_*",
        "close",
        ("p_value",),
        relative=0.02,
        absolute=0.002,
        why="far in a tail, where the logarithm is what is computed: it moved by 1.3 % of 6e-23",
    ),
    Rule(
        "regimes/*",
        "close",
        ("p_value",),
        relative=0.003,
        absolute=0.0011,
        why="a rank among 999 draws, which may move by one where two numbers nearly tie",
    ),
    Rule(
        "*/shape_p_value/*",
        "close",
        ("value",),
        relative=0.003,
        absolute=0.0011,
        why="a rank among 999 draws, too",
    ),
    Rule(
        "*",
        "close",
        ("p_value",),
        relative=0.003,
        absolute=0.011,
        why="a rank among as few as 199 draws, or 99, which may move by one where two numbers nearly tie",
    ),
    Rule("*", "close", relative=0.003, why="six times the largest change seen between kinds of processors"),
)
