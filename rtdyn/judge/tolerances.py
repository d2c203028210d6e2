"""The tolerances that a new baseline starts with, each with its reason.

Measured on the bundled suite at steps 0, 512 and 4000, against one run: with one thread instead of two, no number
differed. Others were run with another --memory-gib, with AVX2 or plain vector instructions in place of AVX-512, and
with float32 in place of bfloat16 products. An influence moved by up to 6e-5 of itself, a fit by 1e-4, an interval's end
by 1.2e-4, a likelihood ratio by 5e-4. 3e-3 leaves six times the largest and stays below the 1 % that a check is for. It
is wider than what --tolerance allows where influences are above 7e-3 nats.

The same code was run on an Intel processor against a baseline of an AMD one, with all analyses. Of 5,458 numbers 30
moved farther than these. 9 were p-values, by one rank, which counts twice. 19 were nulls, whose sd moved by up to
2.3 %. Neurons whose influences nearly tie change places there, and so enter or leave a set. Two were an end of a
boundary's interval, by 0.45 %. A group's mediation is a difference of two near numbers. It moved by 0.8 % on a GPU.
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
        "regimes/contrast_*",
        "close",
        ("p_value",),
        relative=0.003,
        absolute=0.011,
        why="twice a rank among 200 pseudo-classes, which may move by one where two numbers nearly tie",
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
        absolute=0.021,
        why="twice a rank among as few as 99 draws, which may move by one where two numbers nearly tie",
    ),
    Rule(
        "mediation/mediation/*",
        "close",
        ("value", "null_mean", "null_sd"),
        relative=0.05,
        absolute=0.002,
        why="one minus a ratio near 1: it moved by 0.8 % between a CPU and a GPU, and its null by 1.5 %",
    ),
    Rule(
        "*@selected",
        "close",
        ("null_sd",),
        relative=0.05,
        why="of sets that influences choose, of which some nearly tie: it moved by 2.3 % between processors",
    ),
    Rule(
        "*@selected",
        "close",
        ("null_mean",),
        relative=0.009,
        why="of sets that influences choose, of which some nearly tie: it moved by 0.4 % between processors",
    ),
    Rule(
        "regimes/*",
        "close",
        ("ci_low", "ci_high"),
        relative=0.009,
        why="of boundaries that lie on a grid in each draw: it moved by 0.45 % between processors",
    ),
    Rule("*", "close", relative=0.003, why="six times what is seen of influences and fits between kinds of processors"),
)
